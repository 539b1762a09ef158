#include "data/causal_dataset.hpp"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "models/layers/random.hpp"

namespace sparsegrad::finetune {

CausalDataset::CausalDataset(std::string name, std::span<const Conversation> conversations,
                             const ChatTemplate& chat, const TextEncoder& encode, index_t max_length)
    : name_(std::move(name)) {
  std::vector<std::int32_t> ids;
  std::vector<bool> predicted;
  for (const Conversation& conversation : conversations) {
    ids.clear();
    predicted.clear();
    for (const ChatPiece& piece : chat.render(conversation)) {
      const std::vector<std::int32_t> own = encode(piece.text);
      ids.insert(ids.end(), own.begin(), own.end());
      predicted.resize(ids.size(), piece.predicted);
    }
    longest_uncut_ = std::max(longest_uncut_, static_cast<index_t>(ids.size()));
    // The rows are all tokens but the last, which is only predicted.
    std::size_t rows = ids.empty() ? 0 : ids.size() - 1;
    while (rows > 0 && !predicted[rows])
      --rows;
    if (rows > at(max_length)) {
      rows = at(max_length);
      while (rows > 0 && !predicted[rows])
        --rows;
      ++(rows > 0 ? cut_ : left_out_);
    } else if (rows == 0) {
      ++left_out_;
    }
    if (rows == 0) continue;
    index_t counted = 0;
    for (std::size_t r = 0; r < rows; ++r) {
      ids_.push_back(ids[r]);
      targets_.push_back(predicted[r + 1] ? ids[r + 1] : -1);
      counted += predicted[r + 1] ? 1 : 0;
    }
    counted_.push_back(counted);
    all_counted_ += counted;
    offsets_.push_back(static_cast<index_t>(ids_.size()));
    longest_ = std::max(longest_, static_cast<index_t>(rows));
  }
  ids_.shrink_to_fit();
  targets_.shrink_to_fit();
}

std::vector<Conversation> hold_out(std::vector<Conversation>& conversations, double share,
                                   std::uint64_t seed) {
  const std::size_t all = conversations.size();
  const auto count = static_cast<std::size_t>(share * static_cast<double>(all) + 0.5);
  if (count == 0 || count >= all) {
    throw DataError(fmt::format(
        "--held-out {} of {} examples leaves {} to train on and {} to evaluate on; give a {} share, or a "
        "file to evaluate on, --validation FILE",
        share, all, all - count, count, count == 0 ? "larger" : "smaller"));
  }
  // The examples of the smallest keys: as many as were asked for.
  std::vector<std::size_t> order(all);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto key = [&](std::size_t i) { return stream_key(stream_key(seed, 0x48454C44), i); };
  std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                   [&](std::size_t a, std::size_t b) { return std::pair(key(a), a) < std::pair(key(b), b); });
  std::vector<bool> is_held(all);
  for (std::size_t i = 0; i < count; ++i)
    is_held[order[i]] = true;
  std::vector<Conversation> held;
  std::vector<Conversation> rest;
  for (std::size_t i = 0; i < all; ++i)
    (is_held[i] ? held : rest).push_back(std::move(conversations[i]));
  conversations = std::move(rest);
  return held;
}

}  // namespace sparsegrad::finetune
