// Lifetime: by which others learn that an object is gone.
#pragma once

#include <memory>

#include "config.hpp"

namespace sparsegrad::SPARSEGRAD_ABI {

/// A member of an object that others refer to without owning it: what `watch` returns expires with
/// the object. A copy of the object, or the one that it is moved to, has a life of its own.
class Lifetime {
 public:
  /// A life that begins.
  Lifetime() = default;
  /// Another one: a copy's.
  Lifetime(const Lifetime&) {}
  /// Each goes on with its own.
  Lifetime& operator=(const Lifetime&) { return *this; }  // NOLINT(bugprone-unhandled-self-assignment)

  /// Expired once the object is destroyed.
  std::weak_ptr<const void> watch() const { return token_; }

 private:
  std::shared_ptr<const int> token_ = std::make_shared<int>(0);
};

}  // namespace sparsegrad::SPARSEGRAD_ABI
