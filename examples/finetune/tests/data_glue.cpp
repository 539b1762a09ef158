#include "data/glue.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "files.hpp"

using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;
namespace fs = std::filesystem;
using namespace std::string_literals;

namespace {

constexpr const char* two_rows = "src1\t1\t\tShe left.\nsrc2\t0\t*\tLeft she the.\n";

/// The error of reading CoLA's train.tsv with this content.
std::string cola_error(const std::string& content) {
  const fs::path folder = fresh_folder("cola_error");
  write_file(folder / "CoLA/train.tsv", content);
  return error_of([&] { load_split(find_task("cola"), folder, Split::train); });
}

Dataset read_cola(const std::string& content) {
  const fs::path folder = fresh_folder("cola");
  write_file(folder / "CoLA/train.tsv", content);
  return load_split(find_task("cola"), folder, Split::train);
}

}  // namespace

TEST_CASE("tasks go by many spellings") {
  for (const char* name : {"cola", "CoLA", "COLA", "cola_public"})
    CHECK(find_task(name).name == "cola");
  for (const char* name : {"sst2", "SST-2", "sst-2", "SST2", "sst_2"})
    CHECK(find_task(name).name == "sst2");
  CHECK(find_task("STS-B").regression);
  CHECK(find_task("stsb").num_labels == 1);
  CHECK(find_task("cola").main_metric() == MetricKind::matthews);
  CHECK(find_task("sst2").main_metric() == MetricKind::accuracy);
  const std::string error = error_of([] { find_task("col"); });
  check_says(error, "one of cola, sst2, mrpc, stsb, qqp, mnli, mnli-mm, qnli, rte, wnli, acceptability");
  check_says(error, "found \"col\"");
  check_says(error_of([] { find_task(""); }), "found \"\"");
  for (const Task& task : all_tasks()) {
    CHECK(&find_task(task.name) == &task);
    CHECK_FALSE(task.metrics.empty());
    for (const FileLayout& layout : task.layouts) {
      const Headerless& columns = layout.headerless;
      if (columns.count > 0) {
        CHECK(columns.a < columns.count);
        CHECK(columns.b < columns.count);
        CHECK(columns.label < columns.count);
      }
      CHECK_FALSE((layout.train_files.empty() && layout.dev_files.empty() && layout.test_files.empty()));
    }
    if (!task.layouts.empty()) {
      CHECK_FALSE(task.columns.a.empty());
      CHECK_FALSE(task.columns.label.empty());
      const FileLayout& first = task.layouts.front();
      CHECK(first.train_files.empty() == !task.trained_on.empty());
      CHECK(first.dev_files.empty() == !task.trained_on.empty());
    }
    if (!task.submission.empty()) {
      CHECK(std::any_of(task.layouts.begin(), task.layouts.end(),
                        [](const FileLayout& layout) { return !layout.test_files.empty(); }));
    }
  }
}

TEST_CASE("CoLA's rows") {
  const Dataset data = read_cola(two_rows);
  CHECK(data.name == "cola/train");
  REQUIRE(data.examples.size() == 2);
  CHECK(data.examples[0].a == "She left.");
  CHECK_FALSE(data.examples[0].b.has_value());
  CHECK(data.examples[0].label == 1.0F);
  CHECK(data.examples[1].a == "Left she the.");
  CHECK(data.examples[1].label == 0.0F);
}

TEST_CASE("forms of the same rows") {
  const auto sentences = [](const std::string& content) {
    std::string out;
    for (const Example& example : read_cola(content).examples)
      out += example.a + "|";
    return out;
  };
  const std::string expected = "She left.|Left she the.|";
  CHECK(sentences(two_rows) == expected);
  CHECK(sentences("\xEF\xBB\xBF"s + two_rows) == expected);                         // byte order mark
  CHECK(sentences("a\t1\t\tShe left.\r\nb\t0\t*\tLeft she the.\r\n") == expected);  // CRLF
  CHECK(sentences("a\t1\t\tShe left.\nb\t0\t*\tLeft she the.") == expected);        // no last newline
  CHECK(sentences("a\t1\t\tShe left.\nb\t0\t*\tLeft she the.\n\n\r\n") ==
        expected);                                                            // blank lines at the end
  CHECK(sentences("a\t1\t\t\"She\" left\" 'so\n") == "\"She\" left\" 'so|");  // quotes are text
  CHECK(sentences("a\t1\t\t\"one\nb\t1\t\ttwo\"\n") == "\"one|two\"|");
  CHECK(sentences("a\t1\t\t é中😀 \n") == " é中😀 |");
}

TEST_CASE("what is wrong with a row is said with file and line") {
  check_says(cola_error(two_rows + "c\t1\tthree columns\n"s),
             "train.tsv:3: expected 4 tab-separated columns, found 3");
  check_says(cola_error(two_rows + "c\t1\t\ta\ttab\n"s),
             "train.tsv:3: expected 4 tab-separated columns, found 5");
  check_says(cola_error("\n"s + two_rows), "train.tsv:1: expected 4 tab-separated columns, found 1");
  check_says(cola_error(two_rows + "\n"s + two_rows), "train.tsv:3: expected 4");
  check_says(cola_error("a\tx\t\tb\n"),
             "train.tsv:1: expected a label, a whole number from 0 to 1, found \"x\"");
  for (const char* label : {"2", "-1", "0.5", "", " 1", "1 ", "+1", "nan", "inf", "1e999"}) {
    CAPTURE(label);
    check_says(cola_error("a\t"s + label + "\t\tb\n"), "found \""s + label + "\"");
  }
  check_says(cola_error("a\t1\t\tb\na\t1\t\tx\0y\n"s),
             "train.tsv:2: expected text, found a NUL byte at byte 6");
  check_says(cola_error("a\t1\t\tb\na\t1\t\tx\xFFy\n"),
             "train.tsv:2: expected UTF-8, found an invalid byte at byte 6");
  check_says(cola_error(""), "train.tsv: expected rows, found an empty file");
  check_says(cola_error("\xEF\xBB\xBF"), "found an empty file");
  check_says(cola_error("\n\n"), "found an empty file");
}

TEST_CASE("tables with a header") {
  const fs::path folder = fresh_folder("sst");
  const Task& task = find_task("sst2");
  write_file(folder / "SST-2/train.tsv", "\xEF\xBB\xBFsentence\tlabel\nso good \t1\nbad\t0\n");
  const Dataset data = load_split(task, folder, Split::train);
  REQUIRE(data.examples.size() == 2);
  CHECK(data.examples[0].a == "so good ");
  CHECK(data.examples[1].label == 0.0F);
  write_file(folder / "SST-2/train.tsv", "sentence\tlabel\n");
  check_says(error_of([&] { load_split(task, folder, Split::train); }),
             "expected rows, found a header alone");
  write_file(folder / "SST-2/train.tsv", "so good\t1\nbad\t0\n");
  check_says(error_of([&] { load_split(task, folder, Split::train); }),
             "train.tsv:1: expected a header, found a row with the label 1");
  write_file(folder / "SST-2/train.tsv", "sentence\tlabel\ngood\t1\nbad\n");
  check_says(error_of([&] { load_split(task, folder, Split::train); }),
             "train.tsv:3: expected 2 tab-separated columns, found 1");
}

TEST_CASE("pairs and scores") {
  const fs::path folder = fresh_folder("pairs");
  write_file(folder / "MRPC/dev.tsv",
             "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t10\t11\tFirst .\t\" Second .\n");
  const Example pair = load_split(find_task("mrpc"), folder, Split::dev).examples.at(0);
  CHECK(pair.a == "First .");
  CHECK(pair.b == "\" Second .");
  CHECK(pair.label == 1.0F);
  const std::string header =
      "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n";
  write_file(folder / "stsb/dev.tsv", header + "0\tg\tf\ty\t1\tn\tn\tone\ttwo\t3.250\n");
  const Example scored = load_split(find_task("stsb"), folder, Split::dev).examples.at(0);
  CHECK(scored.label == 3.25F);
  CHECK(scored.b == "two");
  write_file(folder / "stsb/dev.tsv", header + "0\tg\tf\ty\t1\tn\tn\tone\ttwo\t5.5\n");
  check_says(error_of([&] { load_split(find_task("stsb"), folder, Split::dev); }),
             "a number from 0 to 5, found \"5.5\"");
}

TEST_CASE("classes by name; train and dev of different width; two dev sets") {
  const fs::path folder = fresh_folder("mnli");
  const std::string eight = "0\tp\tq\tg\tb\tb\tp\tp\t";
  write_file(folder / "MNLI/train.tsv", "1\t2\t3\t4\t5\t6\t7\t8\tsentence1\tsentence2\tlabel1\tgold_label\n" +
                                            eight + "One .\tTwo .\tneutral\tneutral\n");
  const std::string wide = "1\t2\t3\t4\t5\t6\t7\t8\tsentence1\tsentence2\tl1\tl2\tl3\tl4\tl5\tgold_label\n";
  write_file(folder / "MNLI/dev_matched.tsv", wide + eight + "a\tb\tn\tn\tn\tn\tn\tcontradiction\n");
  write_file(folder / "MNLI/dev_mismatched.tsv", wide + eight + "c\td\tn\tn\tn\tn\tn\tentailment\n");
  const Task& task = find_task("MNLI");
  CHECK(task.num_labels == 3);
  const Example train = load_split(task, folder, Split::train).examples.at(0);
  CHECK(train.a == "One .");
  CHECK(train.b == "Two .");
  CHECK(train.label == 1.0F);
  CHECK(load_split(task, folder, Split::dev).examples.at(0).label == 2.0F);
  const Example other = load_split(find_task("mnli-mm"), folder, Split::dev).examples.at(0);
  CHECK(other.a == "c");
  CHECK(other.label == 0.0F);
  CHECK(load_split(find_task("mnli-mm"), folder, Split::train).examples.size() == 1);
  write_file(folder / "MNLI/dev_matched.tsv", wide + eight + "a\tb\tn\tn\tn\tn\tn\t-\n");
  check_says(error_of([&] { load_split(task, folder, Split::dev); }),
             "dev_matched.tsv:2: expected a label, one of entailment, neutral, contradiction, found \"-\"");
  write_file(folder / "MNLI/dev_matched.tsv", wide + eight + "a\tb\tcontradiction\n");
  check_says(error_of([&] { load_split(task, folder, Split::dev); }),
             "expected 16 tab-separated columns, found 11");
  write_file(folder / "MNLI/dev_matched.tsv", "a\tb\n");
  check_says(
      error_of([&] { load_split(task, folder, Split::dev); }),
      "dev_matched.tsv:1: expected a header with the columns sentence1 (or premise, text1, text_a), "
      "sentence2 (or "
      "hypothesis, text2, text_b) and label (or labels, gold_label), found 2 tab-separated: \"a\", \"b\"");

  write_file(folder / "RTE/dev.tsv", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tnot_entailment\n");
  CHECK(load_split(find_task("rte"), folder, Split::dev).examples.at(0).label == 1.0F);
  write_file(folder / "RTE/dev.tsv", "0\ta\tb\tnot_entailment\n");
  check_says(error_of([&] { load_split(find_task("rte"), folder, Split::dev); }), "expected a header");
}

TEST_CASE("QQP's short rows are left out; test splits have no labels") {
  const fs::path folder = fresh_folder("qqp");
  write_file(folder / "QQP/dev.tsv",
             "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\ta ?\tb ?\t1\n1\t2\t3\ta\n"
             "1\t2\t3\tc ?\td ?\t0\n");
  const Dataset data = load_split(find_task("qqp"), folder, Split::dev);
  REQUIRE(data.examples.size() == 2);
  CHECK(data.examples[1].a == "c ?");
  CHECK(data.skipped == 1);
  write_file(folder / "QQP/test.tsv", "id\tquestion1\tquestion2\n0\ta ?\tb ?\n");
  const Dataset test = load_split(find_task("qqp"), folder, Split::test);
  CHECK(test.name == "qqp/test");
  CHECK(test.examples.at(0).b == "b ?");
  CHECK(test.examples.at(0).label == 0.0F);
  write_file(folder / "CoLA/test.tsv", "index\tsentence\n0\tShe left.\n");
  CHECK(load_split(find_task("cola"), folder, Split::test).examples.at(0).a == "She left.");
  check_says(error_of([&] { load_split(find_task("sst2"), folder, Split::test); }), "expected test.tsv");
  check_says(error_of([&] { load_split(find_task("acceptability"), folder, Split::test); }),
             "task acceptability: has no test split");
}

TEST_CASE("test splits have columns of their own") {
  const fs::path folder = fresh_folder("test_columns");
  const auto test = [&](const char* task) {
    return load_split(find_task(task), folder, Split::test).examples.at(0);
  };
  write_file(folder / "SST-2/test.tsv", "index\tsentence\n0\tgood\n");
  CHECK(test("sst2").a == "good");
  CHECK_FALSE(test("sst2").b.has_value());
  write_file(folder / "MRPC/test.tsv", "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t8\t9\tone\ttwo\n");
  CHECK(test("mrpc").a == "one");
  CHECK(test("mrpc").b == "two");
  write_file(folder / "STS-B/test.tsv",
             "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\n"
             "0\tg\tf\ty\t3\tn\tm\tone\ttwo\n");
  CHECK(test("stsb").a == "one");
  CHECK(test("stsb").b == "two");
  const std::string mnli = "i\tp\tq\tg\tb1\tb2\tp1\tp2\tsentence1\tsentence2\n0\t1\t2\tg\tw\tx\ty\tz\t";
  write_file(folder / "MNLI/test_matched.tsv", mnli + "one\ttwo\n");
  write_file(folder / "MNLI/test_mismatched.tsv", mnli + "three\tfour\n");
  CHECK(test("mnli").a == "one");
  CHECK(test("mnli").b == "two");
  CHECK(test("mnli-mm").a == "three");
  CHECK(test("mnli-mm").b == "four");
}

TEST_CASE("another task's folder is not taken for the task's own") {
  const fs::path folder = fresh_folder("owners");
  write_file(folder / "QNLI/dev.tsv", "index\tquestion\tsentence\tlabel\n0\ta\tb\tentailment\n");
  for (const char* name : {"QNLI", "QNLI/", "QNLI/."}) {
    CAPTURE(name);
    CHECK(load_split(find_task("qnli"), folder / name, Split::dev).examples.size() == 1);
    check_says(error_of([&] { load_split(find_task("rte"), folder / name, Split::dev); }),
               "to be the folder of task qnli");
    CHECK_FALSE(find_task_folder(find_task("rte"), folder / name, Split::dev).has_value());
  }
  fs::create_directories(folder / "QNLI/RTE");
  fs::copy(folder / "QNLI/dev.tsv", folder / "QNLI/RTE/dev.tsv");
  check_says(error_of([&] { load_split(find_task("rte"), folder / "QNLI", Split::dev); }),
             "found 4 tab-separated: \"index\", \"question\", \"sentence\", \"label\"");
  write_file(folder / "QNLI/RTE/dev.tsv", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n");
  CHECK(load_split(find_task("rte"), folder / "QNLI", Split::dev).examples.size() == 1);
}

TEST_CASE("folders by many names") {
  const Task& task = find_task("cola");
  for (const char* name :
       {"CoLA/train.tsv", "cola/train.tsv", "COLA/train.tsv", "train.tsv",
        "cola_public/raw/in_domain_train.tsv", "raw/in_domain_train.tsv", "CoLA/raw/in_domain_train.tsv"}) {
    CAPTURE(name);
    const fs::path folder = fresh_folder("spellings");
    const fs::path file = write_file(folder / name, two_rows);
    CHECK(load_split(task, folder, Split::train).examples.size() == 2);
    CHECK(find_task_folder(task, folder, Split::train).has_value());
    CHECK(find_task_file(task, folder, Split::train).value() == file);
    CHECK_FALSE(find_task_folder(task, folder, Split::dev).has_value());
  }
}

TEST_CASE("the corpus's own archive: dev is the in-domain file and then the out-of-domain one") {
  const fs::path folder = fresh_folder("archive") / "cola_public";
  write_file(folder / "raw/in_domain_dev.tsv", two_rows);
  CHECK(load_split(find_task("cola"), folder, Split::dev).examples.size() == 2);
  write_file(folder / "raw/out_of_domain_dev.tsv", "c\t1\t\tHe came.\n");
  const Dataset data = load_split(find_task("cola"), folder.parent_path(), Split::dev);
  REQUIRE(data.examples.size() == 3);
  CHECK(data.examples[2].a == "He came.");
}

TEST_CASE("missing files: which, where, how to get them") {
  const fs::path folder = fresh_folder("missing");
  const auto error = [&](const fs::path& data) {
    return error_of([&] { load_split(find_task("cola"), data, Split::train); });
  };
  check_says(error(folder),
             "task cola: expected train.tsv or raw/in_domain_train.tsv in " + (folder / "CoLA").string());
  check_says(error(folder), "found none there");
  check_says(error(folder), "https://nyu-mll.github.io/CoLA/cola_public_1.1.zip");
  check_says(error(folder / "nowhere"), "no such directory as " + (folder / "nowhere").string());
  check_says(error(write_file(folder / "file", "x")), "to be a file");
  fs::create_directories(folder / "CoLA/train.tsv");  // a folder by the file's name
  check_says(error(folder), "found none there");
}

TEST_CASE("GLUE's own files") {
  const char* glue = std::getenv("SPARSEGRAD_GLUE_DIR");
  if (glue == nullptr) {
    MESSAGE("skipped: SPARSEGRAD_GLUE_DIR is not set (a folder with CoLA and SST-2)");
    return;
  }
  CHECK(load_split(find_task("cola"), glue, Split::train).examples.size() == 8551);
  CHECK(load_split(find_task("cola"), glue, Split::dev).examples.size() == 1043);
  CHECK(load_split(find_task("sst2"), glue, Split::train).examples.size() == 67349);
  CHECK(load_split(find_task("sst2"), glue, Split::dev).examples.size() == 872);
}
