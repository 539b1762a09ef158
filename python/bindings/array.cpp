#include "array.hpp"

#include <cstring>
#include <utility>

#include "calls.hpp"

namespace sparsegrad::python {

namespace {

// DLPack (github.com/dmlc/dlpack, dlpack.h), versions 0 and 1.
struct DlDevice {
  std::int32_t type;
  std::int32_t id;
};
struct DlType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};
struct DlTensor {
  void* data;
  DlDevice device;
  std::int32_t dimensions;
  DlType type;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct DlManaged {
  DlTensor tensor;
  void* manager;
  void (*deleter)(DlManaged*);
};
struct DlVersioned {
  std::uint32_t major;
  std::uint32_t minor;
  void* manager;
  void (*deleter)(DlVersioned*);
  std::uint64_t flags;
  DlTensor tensor;
};
constexpr std::int32_t dl_cpu = 1, dl_pinned = 3;
constexpr std::uint8_t dl_float = 2, dl_bfloat = 4;
constexpr std::uint64_t dl_read_only = 1;

constexpr std::int64_t size_of(sparsegrad_dtype dtype) {
  return dtype == SPARSEGRAD_FLOAT32 ? 4 : 2;
}

bool truth(nb::handle object, const char* attribute) {
  const nb::object value = nb::getattr(object, attribute, nb::none());
  return !value.is_none() && PyObject_IsTrue(value.ptr()) == 1;
}

std::string class_name(nb::handle object) {
  return text_of(object.type().attr("__name__"));
}

/// Text of the Python error that is set, which is cleared. What is no Exception, as KeyboardInterrupt, goes on.
std::string take_error() {
  if (PyErr_ExceptionMatches(PyExc_Exception) == 0) throw nb::python_error();
  const nb::python_error error;
  return text_of(nb::borrow(error.value()));
}

}  // namespace

Array::Array(const char* name, nb::handle given, Use use)
    : name_(name), use_(use), object_(nb::borrow(given)) {
  nb::object object = object_;
  if (object.is_none()) refuse_type("None");
  if (class_name(object).find("MaskedArray") != std::string::npos)
    throw nb::type_error(
        (name_ + " is a masked array, whose mask would be left out: pass .filled(0)").c_str());
  if (truth(object, "requires_grad")) {
    if (use != Use::train) {
      raise("ArgumentError", name_ +
                                 " requires grad, and torch's autograd does not see what is computed here: "
                                 "pass " +
                                 name_ + ".detach()");
    }
    object = object.attr("detach")();
  }
  // torch's tensors of which the numbers in memory are the negatives; those of complex ones it refuses itself.
  if (nb::hasattr(object, "is_neg") && nb::cast<bool>(object.attr("is_neg")()))
    raise("ArgumentError", name_ + " is a negative view, expected its numbers: pass .resolve_neg()");
  bool as_bfloat16 = false;
  const bool is_numpy = PyObject_CheckBuffer(object.ptr()) != 0 && nb::hasattr(object, "dtype");
  if (is_numpy && nb::hasattr(object, "view") && text_of(object.attr("dtype")) == "bfloat16") {
    object = object.attr("view")("uint16");  // numpy knows it by ml_dtypes alone, and does not export it
    as_bfloat16 = true;
  }
  if (PyObject_CheckBuffer(object.ptr()) != 0) {
    const std::shared_ptr<Py_buffer> buffer(new Py_buffer{}, [](Py_buffer* b) {
      PyBuffer_Release(b);
      delete b;
    });
    if (PyObject_GetBuffer(object.ptr(), buffer.get(), PyBUF_RECORDS_RO) == 0) {
      from_buffer(buffer, as_bfloat16);
    } else {
      const std::string why = take_error();
      if (!nb::hasattr(object, "__dlpack__")) refuse_type("a " + class_name(object) + " (" + why + ")");
      from_dlpack(object);
    }
  } else if (nb::hasattr(object, "__dlpack__")) {
    from_dlpack(object);
  } else {
    refuse_type("a " + class_name(object));
  }
  if (use != Use::read && read_only_)
    raise("ArgumentError",
          name_ + " is read-only, expected an array that may be written: pass a copy of your own");
  if (nb::hasattr(object_, "data_ptr")) address_ = nb::cast<std::intptr_t>(object_.attr("data_ptr")());
}

void Array::refuse_type(const std::string& found) const {
  throw nb::type_error(
      (name_ + " is " + found +
       ", expected an array of float32, bfloat16 or float16 in the CPU's memory: numpy's, or "
       "any object with __dlpack__, as torch's tensors")
          .c_str());
}

void Array::from_buffer(std::shared_ptr<Py_buffer> buffer, bool as_bfloat16) {
  const Py_buffer& b = *buffer;
  std::string format = b.format == nullptr ? "B" : b.format;
  if (format.size() > 1 && std::strchr("@=<", format[0]) != nullptr) format.erase(0, 1);
  if (as_bfloat16) {
    dtype_ = SPARSEGRAD_BFLOAT16;
  } else if (format == "f" && b.itemsize == 4) {
    dtype_ = SPARSEGRAD_FLOAT32;
  } else if (format == "e" && b.itemsize == 2) {
    dtype_ = SPARSEGRAD_FLOAT16;
  } else {
    const nb::object dtype = nb::getattr(object_, "dtype", nb::none());
    refuse_type("of " + (dtype.is_none() ? "format '" + format + "'" : text_of(dtype)));
  }
  data_ = b.buf;
  read_only_ = b.readonly != 0;
  dimensions_ = b.ndim;
  for (int d = 0; d < std::min(dimensions_, 2); ++d) {
    const auto i = static_cast<std::size_t>(d);
    shape_[i] = b.shape[i];
    if (shape_[i] > 1 && b.strides[i] % size_of(dtype_) != 0) {
      raise("ShapeError", name_ + " has " + std::to_string(b.strides[i]) +
                              " bytes between its elements, expected a multiple of their size, " +
                              std::to_string(size_of(dtype_)));
    }
    stride_[i] = b.strides[i] / size_of(dtype_);
  }
  memory_ = std::move(buffer);
}

void Array::from_dlpack(nb::handle object) {
  if (nb::hasattr(object, "__dlpack_device__")) {
    const nb::object device =
        nb::steal(PyObject_CallNoArgs(nb::object(object.attr("__dlpack_device__")).ptr()));
    if (!device.is_valid()) refuse_type("a " + class_name(object) + " without memory (" + take_error() + ")");
    const auto type = nb::cast<int>(nb::int_(nb::object(device[0])));
    if (type != dl_cpu && type != dl_pinned) {
      const nb::object text = nb::getattr(object, "device", device);
      refuse_type("on device " + text_of(text));
    }
  }
  nb::object capsule;
  PyObject* versioned = nullptr;
  {
    const nb::object method = object.attr("__dlpack__");
    nb::dict keywords;
    keywords["max_version"] = nb::make_tuple(1, 0);
    versioned = PyObject_Call(method.ptr(), nb::tuple().ptr(), keywords.ptr());
    if (versioned == nullptr && PyErr_ExceptionMatches(PyExc_TypeError) != 0) {  // of before DLPack 1
      PyErr_Clear();
      versioned = PyObject_CallNoArgs(method.ptr());
    }
  }
  if (versioned == nullptr)
    refuse_type("a " + class_name(object) + " that does not lend its memory (" + take_error() + ")");
  capsule = nb::steal(versioned);

  const DlTensor* tensor = nullptr;
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned") != 0) {
    auto* managed = static_cast<DlVersioned*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    if (managed->major != 1) refuse_type("lent by DLPack " + std::to_string(managed->major));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
    memory_ = std::shared_ptr<void>(managed, [managed](void*) {
      if (managed->deleter != nullptr) managed->deleter(managed);
    });
    tensor = &managed->tensor;
    read_only_ = (managed->flags & dl_read_only) != 0;
  } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor") != 0) {
    auto* managed = static_cast<DlManaged*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor");
    memory_ = std::shared_ptr<void>(managed, [managed](void*) {
      if (managed->deleter != nullptr) managed->deleter(managed);
    });
    tensor = &managed->tensor;
  } else {
    refuse_type("a " + class_name(object) + " whose __dlpack__ returned no DLPack capsule");
  }
  if (tensor->device.type != dl_cpu && tensor->device.type != dl_pinned)
    refuse_type("on a device of DLPack's type " + std::to_string(tensor->device.type));
  const DlType type = tensor->type;
  if (type.code == dl_float && type.bits == 32 && type.lanes == 1) {
    dtype_ = SPARSEGRAD_FLOAT32;
  } else if (type.code == dl_float && type.bits == 16 && type.lanes == 1) {
    dtype_ = SPARSEGRAD_FLOAT16;
  } else if (type.code == dl_bfloat && type.bits == 16 && type.lanes == 1) {
    dtype_ = SPARSEGRAD_BFLOAT16;
  } else {
    const nb::object dtype = nb::getattr(object, "dtype", nb::none());
    refuse_type("of " + (dtype.is_none() ? "DLPack's type (" + std::to_string(type.code) + ", " +
                                               std::to_string(type.bits) + " bits)"
                                         : text_of(dtype)));
  }
  data_ = static_cast<std::byte*>(tensor->data) + tensor->byte_offset;
  dimensions_ = tensor->dimensions;
  for (int d = 0; d < std::min(dimensions_, 2); ++d) {
    const auto i = static_cast<std::size_t>(d);
    shape_[i] = tensor->shape[i];
    stride_[i] = tensor->strides != nullptr   ? tensor->strides[i]
                 : d == 0 && dimensions_ == 2 ? tensor->shape[1]
                                              : 1;
  }
}

std::string Array::shape_text() const {
  if (dimensions_ == 0) return "no dimension";
  if (dimensions_ == 1) return "1 dimension [" + std::to_string(shape_[0]) + "]";
  const std::string two = std::to_string(shape_[0]) + ", " + std::to_string(shape_[1]);
  return std::to_string(dimensions_) + " dimensions [" + two + (dimensions_ > 2 ? ", ...]" : "]");
}

sparsegrad_matrix Array::matrix(const char* extents) const {
  if (dimensions_ != 2) raise("ShapeError", name_ + " has " + shape_text() + ", expected 2 " + extents);
  const auto [rows, cols] = shape_;
  const bool rows_apart = rows <= 1 || stride_[0] >= cols;
  if (rows > 0 && cols > 0 && ((cols > 1 && stride_[1] != 1) || !rows_apart)) {
    const char* const layout = "its transpose, if that is how it is stored, with layout='in_out', or ";
    const std::string cure =
        use_ == Use::read
            ? "numpy.ascontiguousarray(" + name_ + "), or " + name_ + ".contiguous() of a tensor"
            : std::string(stride_[0] == 1 && use_ == Use::train ? layout : "") + "an array stored row by row";
    raise("ShapeError", name_ + " has strides of " + std::to_string(stride_[0]) + " and " +
                            std::to_string(stride_[1]) + " elements, expected at least " +
                            std::to_string(cols) + " and 1 (" + extents + " row by row): pass " + cure);
  }
  return {data_, rows, cols, rows <= 1 ? cols : stride_[0], dtype_};
}

sparsegrad_const_matrix Array::const_matrix(const char* extents) const {
  const sparsegrad_matrix m = matrix(extents);
  return {m.data, m.rows, m.cols, m.stride, m.dtype};
}

void* Array::vector(std::int64_t size, const char* extents, sparsegrad_dtype dtype) const {
  if (dimensions_ != 1 || shape_[0] != size) {
    raise("ShapeError", name_ + " has " + shape_text() + ", expected 1 " + extents + " of " +
                            std::to_string(size) + " elements");
  }
  if (size > 1 && stride_[0] != 1) {
    raise("ShapeError", name_ + " has a stride of " + std::to_string(stride_[0]) +
                            " elements, expected 1: pass an array without gaps");
  }
  if (dtype != dtype_) {
    const char* const names[] = {"float32", "bfloat16", "float16"};
    raise("ArgumentError", name_ + " is of " + names[dtype_] + ", expected " + names[dtype]);
  }
  if (reinterpret_cast<std::uintptr_t>(data_) % static_cast<std::uintptr_t>(size_of(dtype_)) != 0)
    raise("ArgumentError", name_ + " begins at an address that is no multiple of the size of its elements");
  return data_;
}

void Array::require_in_place() const {
  if (address_ == 0 || nb::cast<std::intptr_t>(object_.attr("data_ptr")()) == address_) return;
  raise("StateError", name_ +
                          " has its numbers elsewhere than when it was given (was its .data set, or the "
                          "model moved?): say so by rebind");
}

nb::object new_floats(std::int64_t rows, std::int64_t cols) {
  return nb::module_::import_("numpy").attr("empty")(nb::make_tuple(rows, cols), "float32");
}

}  // namespace sparsegrad::python
