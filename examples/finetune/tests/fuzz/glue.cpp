// libFuzzer target: any bytes as any file of any task are examples or are refused by a DataError. The input: a letter for
// the task, one for the file's name, the file.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "data/glue.hpp"
#include "support/fuzz.hpp"
#include "tokenizers/utf8.hpp"

namespace fuzz = sparsegrad::fuzz;
using namespace sparsegrad::finetune;

namespace {

/// As in corpora: new ones go to the end.
const std::vector<const char*> task_names{"cola",    "sst2", "mrpc", "stsb", "qqp", "mnli",
                                          "mnli-mm", "qnli", "rte",  "wnli", "ax"};

/// Names that files of some layout have. A name stands where it is in corpora: new ones go to the end.
const std::vector<std::string> file_names{"train.tsv",
                                          "dev.tsv",
                                          "test.tsv",
                                          "dev_matched.tsv",
                                          "dev_mismatched.tsv",
                                          "test_matched.tsv",
                                          "test_mismatched.tsv",
                                          "raw/in_domain_train.tsv",
                                          "raw/in_domain_dev.tsv",
                                          "raw/out_of_domain_dev.tsv",
                                          "msr_paraphrase_train.txt",
                                          "msr_paraphrase_test.txt",
                                          "quora_duplicate_questions.tsv",
                                          "sts-train.csv",
                                          "sts-dev.csv",
                                          "sts-test.csv",
                                          "diagnostic.tsv",
                                          "diagnostic-full.tsv",
                                          "AX.tsv",
                                          "train.csv",
                                          "dev.csv",
                                          "validation.csv",
                                          "test.csv",
                                          "train.jsonl",
                                          "dev.jsonl",
                                          "validation.jsonl",
                                          "test.jsonl",
                                          "val.jsonl",
                                          "train.json",
                                          "dev.json",
                                          "validation.json",
                                          "test.json",
                                          "multinli_1.0_train.jsonl",
                                          "multinli_1.0_train.txt",
                                          "validation.tsv",
                                          "validation_matched.tsv",
                                          "multinli_1.0_dev_matched.txt",
                                          "multinli_1.0_dev_matched.jsonl",
                                          "multinli_1.0_dev_mismatched.txt",
                                          "multinli_1.0_dev_mismatched.jsonl",
                                          "original/multinli_1.0_train.txt",
                                          "original/multinli_1.0_dev_matched.txt",
                                          "original/multinli_1.0_dev_mismatched.jsonl",
                                          "val.tsv",
                                          "val.csv",
                                          "val.json",
                                          "dev_matched.csv",
                                          "validation_matched.csv",
                                          "validation_matched.jsonl",
                                          "validation_mismatched.tsv",
                                          "validation_mismatched.jsonl",
                                          "val_matched.json",
                                          "test_matched.csv",
                                          "test_mismatched.jsonl",
                                          "MNLI/diagnostic.tsv",
                                          "MNLI/AX.tsv",
                                          "MNLI/diagnostic-full.tsv"};

class Data {
 public:
  Data() {
    for (std::size_t i = 0; i < file_names.size(); ++i) {
      for (const Task& task : all_tasks()) {
        if (task.folder.empty() || !made_.insert(std::to_string(i) + std::string(task.folder)).second)
          continue;
        folder_.link(std::filesystem::path(std::to_string(i)) / task.folder / file_names[i], file_);
      }
    }
  }
  std::filesystem::path with(std::size_t name, std::string_view bytes) {
    file_.set(bytes);
    return folder_.path() / std::to_string(name);
  }

 private:
  fuzz::TemporaryFolder folder_;
  fuzz::MemoryFile file_;
  std::set<std::string> made_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Data files;
  if (size < 2) return 0;
  const auto letter = [](std::uint8_t c, std::size_t count) {
    return static_cast<std::size_t>(c < 'A' ? c + 191 : c - 'A') % count;
  };
  const Task* task = nullptr;
  for (const Task& known : all_tasks())
    if (known.name == task_names[letter(data[0], task_names.size())]) task = &known;
  if (task == nullptr) return 0;
  const auto folder = files.with(letter(data[1], file_names.size()), fuzz::text_of(data + 2, size - 2));
  const fuzz::MemoryBound bound(size, 1000);
  for (const Split split : {Split::train, Split::dev, Split::test}) {
    try {
      const Dataset read = load_split(*task, folder, split);
      fuzz::require(!read.examples.empty(), "a file without examples is taken");
      for (const Example& example : read.examples) {
        fuzz::require(!find_invalid_utf8(example.a) && (!example.b || !find_invalid_utf8(*example.b)),
                      "a sentence is not UTF-8");
        fuzz::require(
            split == Split::test || (example.label >= task->label_min && example.label <= task->label_max),
            "a label is out of range");
      }
    } catch (const DataError& error) {  // refused: as it should be
      fuzz::refused(error);
    }
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  if (size < 2 || seed % 16 == 0) return LLVMFuzzerMutate(data, size, max_size);
  const std::string file =
      fuzz::mutated_text(std::string(fuzz::text_of(data + 2, size - 2)), max_size - 2, seed / 16);
  std::memcpy(data + 2, file.data(), file.size());
  return file.size() + 2;
}
