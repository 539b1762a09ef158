// Statuses and this thread's text of the last failure.
#include "errors.hpp"

#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include <sparsegrad/core/error.hpp>
#include <sparsegrad/version.hpp>

namespace sparsegrad::c {

namespace {

thread_local std::string error_text;
/// Where the text itself could not be kept.
thread_local const char* fixed_text = nullptr;

sparsegrad_status keep(sparsegrad_status status, const char* text) noexcept {
  fixed_text = nullptr;
  try {
    error_text = text;
  } catch (...) {
    fixed_text = "an error whose text found no memory";
  }
  return status;
}

}  // namespace

sparsegrad_status keep_error() noexcept {
  try {
    throw;
  } catch (const ShapeError& error) {
    return keep(SPARSEGRAD_ERROR_SHAPE, error.what());
  } catch (const ValueError& error) {
    return keep(SPARSEGRAD_ERROR_VALUE, error.what());
  } catch (const NonFiniteError& error) {
    return keep(SPARSEGRAD_ERROR_NON_FINITE, error.what());
  } catch (const StateError& error) {
    return keep(SPARSEGRAD_ERROR_STATE, error.what());
  } catch (const CapacityError& error) {
    return keep(SPARSEGRAD_ERROR_CAPACITY, error.what());
  } catch (const IoError& error) {
    return keep(SPARSEGRAD_ERROR_IO, error.what());
  } catch (const std::bad_alloc&) {
    fixed_text = "no memory left";
    return SPARSEGRAD_ERROR_MEMORY;
  } catch (const std::length_error& error) {  // of a container: more than any memory
    return keep(SPARSEGRAD_ERROR_MEMORY, error.what());
  } catch (const std::exception& error) {
    return keep(SPARSEGRAD_ERROR_INTERNAL, error.what());
  } catch (...) {
    return keep(SPARSEGRAD_ERROR_INTERNAL, "an exception of unknown type, from a callback");
  }
}

}  // namespace sparsegrad::c

extern "C" {

const char* sparsegrad_last_error(void) {
  using namespace sparsegrad::c;
  return fixed_text != nullptr ? fixed_text : error_text.c_str();
}

const char* sparsegrad_status_name(sparsegrad_status status) {
  switch (status) {
    case SPARSEGRAD_OK:
      return "ok";
    case SPARSEGRAD_ERROR_SHAPE:
      return "shape";
    case SPARSEGRAD_ERROR_VALUE:
      return "value";
    case SPARSEGRAD_ERROR_NON_FINITE:
      return "non-finite";
    case SPARSEGRAD_ERROR_STATE:
      return "state";
    case SPARSEGRAD_ERROR_CAPACITY:
      return "capacity";
    case SPARSEGRAD_ERROR_IO:
      return "io";
    case SPARSEGRAD_ERROR_MEMORY:
      return "memory";
    case SPARSEGRAD_ERROR_INTERNAL:
      return "internal";
    default:
      return "unknown";
  }
}

const char* sparsegrad_version(void) {
  return SPARSEGRAD_VERSION;
}

}  // extern "C"
