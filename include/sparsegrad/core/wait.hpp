// wait_for: the host waits for what a context has been asked to do.
#pragma once

#include "config.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// Returns when all work that was given to the context is done. Needed before something is handed
/// to other contexts, whose work is ordered with their own alone; on a host there is nothing to
/// wait for.
template <class Context>
void wait_for(Context& ctx) {
  if constexpr (requires { ctx.synchronize(); }) ctx.synchronize();
}

}  // namespace sparsegrad::SPARSEGRAD_ABI
