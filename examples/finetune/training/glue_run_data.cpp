#include "training/glue_run_data.hpp"

#include <fmt/format.h>

#include "training/state_arrays.hpp"

namespace sparsegrad::finetune {

std::string content_hash(const EncodedDataset& data) {
  Hash hash;
  for (index_t i = 0; i < data.size(); ++i)
    hash.add_value(data.length(i));
  hash.add(data.ids().data(), data.ids().size_bytes());
  hash.add(data.type_ids().data(), data.type_ids().size_bytes());
  hash.add(data.labels().data(), data.labels().size_bytes());
  return fmt::format("{:016x}", hash.value());
}

}  // namespace sparsegrad::finetune
