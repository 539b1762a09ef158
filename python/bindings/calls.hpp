// Calls into the C interface: the GIL, one call at a time on a context, statuses as exceptions.
#pragma once

#include <sys/types.h>

#include <memory>
#include <mutex>
#include <string>

#include <nanobind/nanobind.h>

#include <sparsegrad/c/sparsegrad.h>

namespace nb = nanobind;

namespace sparsegrad::python {

/// Raises an exception of sparsegrad/_errors.py.
[[noreturn]] void raise(const char* type, const std::string& text);

/// A class of the package's own Python files, as ("_results", "Energy").
nb::object python_class(const char* module, const char* name);

/// str(object)
std::string text_of(const nb::object& object);

/// Lets other Python threads run while it lives. At the interpreter's exit it does not, and a thread that
/// comes back then waits for the end of the process: one that asks a finalized interpreter for the GIL is ended
/// by force, through C++ frames that cannot be.
class WithoutGil {
 public:
  WithoutGil();
  ~WithoutGil();
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

  /// To be called before the interpreter is finalized: waits for all threads that are without the GIL.
  static void prepare_exit();
  /// Whether prepare_exit was called.
  static bool exiting();

 private:
  PyThreadState* state_ = nullptr;
};

/// A context as all that is made with it shares it.
class Machine {
 public:
  explicit Machine(const sparsegrad_context_options& options);
  ~Machine() { sparsegrad_context_destroy(handle_); }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  sparsegrad_context* handle() const { return handle_; }
  /// Whether this is a forked child of the process that made the context.
  bool forked() const;

 private:
  friend class Calls;
  sparsegrad_context* handle_ = nullptr;
  std::mutex mutex_;
  pid_t process_;
};

/// The machine of whoever gave no context: made at its first use, one a process.
std::shared_ptr<Machine> default_machine();

/// Throws the exception of a status other than SPARSEGRAD_OK, with the library's text.
void require_ok(sparsegrad_status status);

/// Calls on one machine, while it lives: no other thread's come between. Python objects must not be
/// released meanwhile, since what that runs may call the same machine: declare what is to be released before.
class Calls {
 public:
  explicit Calls(Machine& machine);

  /// One call f() of the C interface, without the GIL: nothing else in f that may raise.
  template <class F>
  void operator()(F&& f) {
    sparsegrad_status status = SPARSEGRAD_OK;
    {
      const WithoutGil others_run;
      status = f();
    }
    require_ok(status);
  }

 private:
  std::unique_lock<std::mutex> lock_;
};

/// One call f() of the C interface on a machine.
template <class F>
void call(const std::shared_ptr<Machine>& machine, F&& f) {
  Calls calls(*machine);
  calls(f);
}

/// What repr() says of an object: "<", its class, text(), ">". In a forked child, where its context cannot be asked,
/// that it is the parent's.
template <class F>
std::string repr_of(const char* name, const std::shared_ptr<Machine>& machine, F&& text) {
  if (machine->forked()) return std::string("<") + name + " of the parent of this process>";
  return std::string("<") + name + " " + text() + ">";
}
/// "1 step", "2 steps".
inline std::string counted(std::int64_t count, const char* what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}
/// "[2, 3]"
inline std::string extents(std::int64_t rows, std::int64_t cols) {
  return "[" + std::to_string(rows) + ", " + std::to_string(cols) + "]";
}

/// Number of a word in its list. Raises ArgumentError for another word.
template <std::size_t n>
std::int32_t choice(const char* name, const std::string& word, const char* const (&words)[n]) {
  std::string expected;
  for (std::size_t i = 0; i < n; ++i) {
    if (word == words[i]) return static_cast<std::int32_t>(i);
    expected += std::string(i == 0 ? "'" : i + 1 == n ? " or '" : ", '") + words[i] + "'";
  }
  raise("ArgumentError", std::string(name) + " is '" + word + "', expected " + expected);
}

/// A text as C has it. Raises ArgumentError where it would be cut.
const char* c_text(const char* name, const std::string& text);

}  // namespace sparsegrad::python
