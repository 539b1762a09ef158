// Machine: a backend's context as all handles that compute with it share it.
#pragma once

#include <type_traits>

#include <sparsegrad/c/sparsegrad.h>
#include <sparsegrad/backend/host/context.hpp>

namespace sparsegrad::c {

/// The caller's threads as the library's Executor.
class CallbackExecutor final : public backend::host::Executor {
 public:
  explicit CallbackExecutor(const sparsegrad_executor& executor) : executor_(executor) {}
  int concurrency() const override { return executor_.concurrency; }
  void run(index_t count, Task task, void* argument) override {
    static_assert(std::is_same_v<Task, sparsegrad_task>);
    executor_.run(executor_.user, count, task, argument);
  }

 private:
  sparsegrad_executor executor_;
};

/// A context of backend B on threads of its own or on the caller's.
template <class B>
struct Machine {
  explicit Machine(const sparsegrad_context_options& options)
      : executor(options.executor), ctx(options.threads, options.deterministic != 0) {}
  struct OnExecutor {};
  Machine(const sparsegrad_context_options& options, OnExecutor)
      : executor(options.executor), ctx(executor, options.deterministic != 0) {}

  CallbackExecutor executor;
  typename B::Context ctx;
};

}  // namespace sparsegrad::c
