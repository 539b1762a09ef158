#include "data/file_layout.hpp"

namespace sparsegrad::finetune {

std::vector<FileLayout> common_layouts(const std::string& suffix, std::string_view no_label) {
  std::vector<FileLayout> out;
  for (const char* ending : {".tsv", ".csv", ".jsonl", ".json"}) {
    for (const char* dev : {"dev", "validation", "val"}) {
      out.push_back({.train_files = {std::string("train") + ending},
                     .dev_files = {dev + suffix + ending},
                     .test_files = {"test" + suffix + ending},
                     .no_label = no_label,
                     .common = true});
    }
  }
  return out;
}

}  // namespace sparsegrad::finetune
