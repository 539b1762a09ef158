// The context of backend::CpuOneDnn: a HostContext with the matmuls that it has made.
#pragma once

#include "../host/context.hpp"
#include "matmul.hpp"

namespace sparsegrad::backend::onednn {

/// Constructed as HostContext is. What oneDNN prepares for a product's shape belongs to it.
class Context : public host::HostContext {
 public:
  using host::HostContext::HostContext;

  /// The matmuls that are kept.
  MatmulCache& matmuls() { return matmuls_; }

 private:
  MatmulCache matmuls_{threads()};
};

}  // namespace sparsegrad::backend::onednn
