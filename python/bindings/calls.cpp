#include "calls.hpp"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace sparsegrad::python {

namespace {

std::atomic<bool> at_exit{false};
/// Threads between giving up the GIL and having it again.
std::atomic<int> threads_without_gil{0};

}  // namespace

void raise(const char* type, const std::string& text) {
  PyErr_SetString(python_class("_errors", type).ptr(), text.c_str());
  throw nb::python_error();
}

nb::object python_class(const char* module, const char* name) {
  return nb::module_::import_((std::string("sparsegrad.") + module).c_str()).attr(name);
}

std::string text_of(const nb::object& object) {
  return nb::str(nb::handle(object)).c_str();
}

WithoutGil::WithoutGil() {
  if (at_exit) return;
  ++threads_without_gil;
  state_ = PyEval_SaveThread();
}

WithoutGil::~WithoutGil() {
  if (state_ == nullptr) return;
  if (at_exit) {
    --threads_without_gil;
    while (true)
      pause();
  }
  PyEval_RestoreThread(state_);
  --threads_without_gil;
}

void WithoutGil::prepare_exit() {
  at_exit = true;
  PyThreadState* state = PyEval_SaveThread();
  while (threads_without_gil > 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  PyEval_RestoreThread(state);
}

bool WithoutGil::exiting() {
  return at_exit;
}

Machine::Machine(const sparsegrad_context_options& options) : process_(getpid()) {
  // The child has one thread, that which called fork, with the GIL.
  [[maybe_unused]] static const int registered =
      pthread_atfork(nullptr, nullptr, [] { threads_without_gil = 0; });
  require_ok(sparsegrad_context_create(&options, &handle_));
}

bool Machine::forked() const {
  return getpid() != process_;
}

std::shared_ptr<Machine> default_machine() {
  // Never destroyed: what outlives the interpreter may still hold it.
  static auto* const machine = new std::shared_ptr<Machine>;
  if (*machine == nullptr || (*machine)->forked()) {
    sparsegrad_context_options options;
    sparsegrad_context_options_init(&options);
    *machine = std::make_shared<Machine>(options);
  }
  return *machine;
}

void require_ok(sparsegrad_status status) {
  const char* const text = sparsegrad_last_error();
  switch (status) {
    case SPARSEGRAD_OK:
      return;
    case SPARSEGRAD_ERROR_SHAPE:
      raise("ShapeError", text);
    case SPARSEGRAD_ERROR_VALUE:
      raise("ArgumentError", text);
    case SPARSEGRAD_ERROR_NON_FINITE:
      raise("NonFiniteError", text);
    case SPARSEGRAD_ERROR_STATE:
      raise("StateError", text);
    case SPARSEGRAD_ERROR_CAPACITY:
      raise("CapacityError", text);
    case SPARSEGRAD_ERROR_IO:
      raise("FileError", text);
    case SPARSEGRAD_ERROR_MEMORY:
      PyErr_SetString(PyExc_MemoryError, text);
      throw nb::python_error();
    default:
      raise("Error", text);
  }
}

Calls::Calls(Machine& machine) {
  if (machine.forked()) {
    raise("StateError",
          "the context was made by the parent of this process, and its threads stayed there: make contexts, "
          "groups and layers anew after a fork");
  }
  lock_ = std::unique_lock(machine.mutex_, std::try_to_lock);
  if (lock_.owns_lock()) return;
  if (WithoutGil::exiting())
    raise("StateError", "another thread is in a call on this context while the interpreter exits");
  const WithoutGil others_run;
  lock_.lock();
}

const char* c_text(const char* name, const std::string& text) {
  if (text.find('\0') != std::string::npos)
    raise("ArgumentError", std::string(name) + " has a zero byte in it, expected text without");
  return text.c_str();
}

}  // namespace sparsegrad::python
