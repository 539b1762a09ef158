// The processes that share a run, as its training sees them.
#pragma once

#include <string>

#include "training/process_agreement.hpp"

namespace sparsegrad::finetune {

/// The processes that share a run; this one alone by default.
struct RunProcesses {
  Communicator* communicator = nullptr;  ///< null: this one alone
  int on_host = 1;                       ///< of them on this host

  /// Whether this is the one that prints and writes files.
  bool is_first() const { return communicator == nullptr || communicator->rank() == 0; }
  /// What the first one says.
  template <class V>
  V from_first(const V& own, const std::string& what) const {
    return communicator == nullptr ? own : value_of_first(*communicator, own, what).template get<V>();
  }
};

}  // namespace sparsegrad::finetune
