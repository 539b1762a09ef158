// sparsegrad._core: the C interface for Python.
#include <exception>
#include <typeinfo>

#include "bindings.hpp"

NB_MODULE(_core, m) {
  using namespace sparsegrad::python;
  nb::set_leak_warnings(false);  // of objects that the interpreter itself leaves at its exit
  nb::register_exception_translator([](const std::exception_ptr& error, void*) {
    try {
      std::rethrow_exception(error);
    } catch (const std::bad_cast&) {
      PyErr_SetString(PyExc_TypeError,
                      "an object is of another type than expected, or was never initialised");
    }
  });
  m.attr("version") = sparsegrad_version();
  bind_context(m);
  bind_basis(m);
  bind_adam(m);
  bind_layer(m);
  bind_group(m);
  nb::module_::import_("atexit").attr("register")(nb::cpp_function([] { WithoutGil::prepare_exit(); }));
}
