// Array: memory of a numpy array or of any object with the buffer protocol or DLPack, borrowed without a copy.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include <nanobind/nanobind.h>

#include <sparsegrad/c/sparsegrad.h>

namespace nb = nanobind;

namespace sparsegrad::python {

/// What an array is for.
enum class Use {
  read,   ///< it is only read
  write,  ///< results go to it
  train   ///< it is a parameter: read and written, and taken though torch's autograd follows it
};

/// An array in the memory of a Python object, which lives as long as it. Make and destroy it with the GIL.
class Array {
 public:
  Array() = default;
  /// Borrows the memory of `object`, which messages call `name`. Raises TypeError for what is no array of
  /// float32, bfloat16 or float16 on the CPU, ArgumentError where it may not be used so.
  Array(const char* name, nb::handle object, Use use);
  Array(Array&&) noexcept = default;
  Array& operator=(Array&&) noexcept = default;

  explicit operator bool() const { return object_.is_valid(); }
  sparsegrad_dtype dtype() const { return dtype_; }

  /// As a matrix of the given extents, as "[out, in]". Raises ShapeError unless it has two dimensions and
  /// rows without gaps between their elements.
  sparsegrad_matrix matrix(const char* extents) const;
  sparsegrad_const_matrix const_matrix(const char* extents) const;
  /// As a vector of `size` numbers of a type. Raises ShapeError and ArgumentError.
  void* vector(std::int64_t size, const char* extents, sparsegrad_dtype dtype) const;

  /// Raises StateError where the object (a torch tensor) has its numbers elsewhere by now.
  void require_in_place() const;

 private:
  void from_buffer(std::shared_ptr<Py_buffer> buffer, bool as_bfloat16);
  void from_dlpack(nb::handle object);
  [[noreturn]] void refuse_type(const std::string& found) const;
  std::string shape_text() const;

  std::string name_;
  Use use_ = Use::read;
  nb::object object_;             // as it was given
  std::shared_ptr<void> memory_;  // what keeps the numbers where they are
  void* data_ = nullptr;
  sparsegrad_dtype dtype_ = SPARSEGRAD_FLOAT32;
  bool read_only_ = false;
  int dimensions_ = 0;
  std::array<std::int64_t, 2> shape_{}, stride_{};  // in elements; of the first two dimensions
  std::intptr_t address_ = 0;                       // what data_ptr() said; 0: there is none
};

/// A new numpy array of float32.
nb::object new_floats(std::int64_t rows, std::int64_t cols);

/// A new numpy array with a copy of `count` numbers, whose type is `dtype`.
template <class X>
nb::object new_vector(const X* numbers, std::size_t count, const char* dtype) {
  nb::object array = nb::module_::import_("numpy").attr("empty")(count, dtype);
  Py_buffer buffer;
  if (PyObject_GetBuffer(array.ptr(), &buffer, PyBUF_CONTIG) != 0) throw nb::python_error();
  std::copy_n(numbers, count, static_cast<X*>(buffer.buf));
  PyBuffer_Release(&buffer);
  return array;
}

}  // namespace sparsegrad::python
