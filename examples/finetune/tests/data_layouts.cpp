// The layouts in which GLUE's tasks are published, and the forms in which other libraries write them.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "data/delimited_text.hpp"
#include "data/glue.hpp"
#include "files.hpp"

using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;
namespace fs = std::filesystem;
using namespace std::string_literals;

namespace {

/// A task's split from one file with this content.
Dataset read(const char* task, const std::string& file, const std::string& content,
             Split split = Split::train) {
  const fs::path folder = fresh_folder("layouts");
  write_file(folder / find_task(task).folder / file, content);
  return load_split(find_task(task), folder, split);
}

std::string error(const char* task, const std::string& file, const std::string& content,
                  Split split = Split::train) {
  return error_of([&] { read(task, file, content, split); });
}

/// All examples as one text.
std::string text_of(const Dataset& data) {
  std::string out;
  for (const Example& example : data.examples)
    out += example.a + (example.b ? "/" + *example.b : "") + "=" +
           std::to_string(example.label).substr(0, 4) + "|";
  return out;
}

/// A file of single sentences, of which the last is empty, with "x" in its place.
std::string with_text_in_last_row(std::string text) {
  for (const char* empty : {"\"sentence\":\"\"", "\"sentence\": \"\""}) {
    if (const std::size_t at = text.find(empty); at != std::string::npos)
      return text.insert(at + std::string(empty).size() - 1, "x");
  }
  std::size_t at = text.rfind('\n', text.size() - 2) + 1;
  // The row may begin with its number.
  if (text.substr(at, 2) == "11") at += 3;
  if (text.substr(at, 4) == "\"11\"") at += 5;
  return text.insert(at + (text[at] == '"' ? 1 : 0), "x");
}

}  // namespace

TEST_CASE("what datasets and pandas write is read to the byte") {
  const nlohmann::json golden = read_golden("written_data.json");
  const auto sentences = golden.at("sentences").get<std::vector<std::string>>();
  REQUIRE(golden.at("cases").size() > 60);
  for (const nlohmann::json& entry : golden.at("cases")) {
    const auto task = entry.at("task").get<std::string>();
    const auto file = entry.at("file").get<std::string>();
    CAPTURE(task);
    CAPTURE(file);
    const auto name = entry.at("split").get<std::string>();
    const Split split = name == "train" ? Split::train : name == "dev" ? Split::dev : Split::test;
    const auto labels = golden.at("labels").at(task).get<std::vector<float>>();
    auto text = entry.at("text").get<std::string>();
    std::vector<std::string> expected = sentences;
    if (find_task(task).columns.b.empty()) {
      // The last sentence is empty, and a row without any text is refused. With a text it is read like the others.
      check_says(error(task.c_str(), file, text, split), "found a row without any (1 such rows in the file)");
      text = with_text_in_last_row(text);
      expected.back() = "x";
    }
    const Dataset data = read(task.c_str(), file, text, split);
    REQUIRE(data.examples.size() == sentences.size());
    for (std::size_t i = 0; i < sentences.size(); ++i) {
      CAPTURE(i);
      const Example& example = data.examples[i];
      CHECK(example.a == expected[i]);
      CHECK(example.b.has_value() == !find_task(task).columns.b.empty());
      if (example.b) CHECK(*example.b == sentences[(i + 5) % sentences.size()]);
      CHECK(example.label == (split == Split::test ? 0.0F : labels[i % labels.size()]));
      if (split == Split::test) CHECK(data.indices.at(i) == std::to_string(i));
    }
    CHECK(data.skipped + data.unlabelled == 0);
  }
}

TEST_CASE("original releases") {
  // MRPC, with the byte order mark and the line ends of its files.
  const std::string mrpc =
      "\xEF\xBB\xBFQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t702876\t702977\tHe said \" no \" .\tNo "
      ".\r\n";
  CHECK(text_of(read("mrpc", "msr_paraphrase_train.txt", mrpc)) == "He said \" no \" ./No .=1.00|");
  CHECK(text_of(read("mrpc", "msr_paraphrase_test.txt", mrpc, Split::test)) ==
        "He said \" no \" ./No .=0.00|");
  check_says(error("mrpc", "msr_paraphrase_train.txt", mrpc, Split::dev), "expected dev.tsv in");

  // The STS benchmark: tabs in a .csv, no header, the score before the sentences, perhaps sources behind.
  const std::string sts =
      "main-captions\tMSRvid\t2012test\t0001\t5.000\tA plane, taking off.\tAn \"air plane\".\n"
      "main-forums\tdeft\t2014\t2\t2.6\t\"One.\tTwo.\tsource\tlicense\n";
  for (const auto& [file, split] : {std::pair("sts-train.csv", Split::train), {"sts-dev.csv", Split::dev}}) {
    CHECK(text_of(read("stsb", file, sts, split)) ==
          "A plane, taking off./An \"air plane\".=5.00|\"One./Two.=2.60|");
  }
  CHECK(text_of(read("stsb", "sts-test.csv", sts, Split::test)) ==
        "A plane, taking off./An \"air plane\".=0.00|\"One./Two.=0.00|");

  // Quora's file: one of all rows, quoted.
  const Dataset quora =
      read("qqp", "quora_duplicate_questions.tsv",
           "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
           "0\t1\t2\t\"What is \"\"it\"\"?\"\tWhat's it?\t0\n1\t3\t4\t\"One\ntwo?\"\tb?\t1\n");
  CHECK(text_of(quora) == "What is \"it\"?/What's it?=0.00|One\ntwo?/b?=1.00|");
  CHECK(quora.skipped == 0);

  // MultiNLI: the label first, rows that may end after the genre, "-" where the annotators disagree.
  const std::string multi =
      "gold_label\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_"
      "parse\tsentence1\t"
      "sentence2\tpromptID\tpairID\tgenre\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\n"
      "neutral\t(a)\t(b)\t(c)\t(d)\tOne .\tTwo .\t1\t1n\tfiction\tneutral\n"
      "-\t(a)\t(b)\t(c)\t(d)"
      "\tThree\tFour\t1\t1n\tfiction\tneutral\tentailment\tneutral\tentailment\tcontradiction\n"
      "contradiction\t(a)\t(b)\t(c)\t(d)\tFive\tSix\t1\t1n\tfiction\tcontradiction\t\t\t\t\n";
  for (const char* folder : {"", "original/"}) {
    const Dataset data = read("mnli", folder + "multinli_1.0_dev_matched.txt"s, multi, Split::dev);
    CHECK(text_of(data) == "One ./Two .=1.00|Five/Six=2.00|");
    CHECK(data.unlabelled == 1);
    CHECK(data.skipped == 0);
  }
  CHECK(read("mnli-mm", "multinli_1.0_dev_mismatched.txt", multi, Split::dev).examples.size() == 2);
  const Dataset lines =
      read("mnli", "multinli_1.0_train.jsonl",
           R"-({"annotator_labels": ["neutral"], "gold_label": "neutral", "sentence1": "One.",)-"
           R"-( "sentence1_parse": "(x)", "sentence2": "Two."})-"
           "\n"
           R"({"annotator_labels": [], "gold_label": "-", "sentence1": "a", "sentence2": "b"})"
           "\n");
  CHECK(text_of(lines) == "One./Two.=1.00|");
  CHECK(lines.unlabelled == 1);

  // SuperGLUE's RTE.
  const std::string rte =
      R"({"premise": "P \"q\".", "hypothesis": "H.", "label": "not_entailment", "idx": 0})";
  CHECK(text_of(read("rte", "val.jsonl", rte + "\n\n" + rte + "\r\n", Split::dev)) ==
        "P \"q\"./H.=1.00|P \"q\"./H.=1.00|");
  CHECK(read("rte", "test.jsonl", R"({"premise": "P", "hypothesis": "H", "idx": 7})", Split::test)
            .indices.at(0) == "7");
}

TEST_CASE("columns go by name, in any order and spelling, among others") {
  for (const char* header : {"label\tsentence", "Label\tSentence", "LABEL\tsentence", "label\tText"})
    CHECK(text_of(read("sst2", "train.tsv", header + "\n1\tgood film\n"s)) == "good film=1.00|");
  for (const char* header : {"#2 String\tquality\t#1 String", "#2String\tQUALITY\t#1_string",
                             "sentence 2\tlabel\tSentence_1", "text2\tlabel\ttext1"})
    CHECK(text_of(read("mrpc", "train.tsv", header + "\nsecond\t1\tfirst\n"s)) == "first/second=1.00|");
  CHECK(text_of(read("cola", "train.tsv", "\tsentence\tlabel\tidx\n0\tHe left.\t1\t0\n")) ==
        "He left.=1.00|");
  CHECK(text_of(read("mnli", "train.tsv", "hypothesis\tpremise\tlabel\nh\tp\t2\n")) == "p/h=2.00|");
  // GLUE's QNLI and RTE have rows of the same shape, in files of the same name.
  check_says(error("rte", "train.tsv", "index\tquestion\tsentence\tlabel\n0\ta\tb\tentailment\n"),
             "train.tsv:1: expected a header with the columns sentence1 (or premise, text1, text_a), "
             "sentence2 (or hypothesis, text2, text_b) and label (or labels, gold_label), found 4 "
             "tab-separated: \"index\", \"question\", "
             "\"sentence\", \"label\"");
  check_says(error("mrpc", "train.csv", "sentence1,label\na,1\n"),
             "found 2 comma-separated: \"sentence1\", \"label\"");
  check_says(
      error("mrpc", "train.jsonl", R"({"sentence1": "a", "label": 1})"),
      "train.jsonl:1: expected the keys #1 String (or sentence1, text1, text_a), #2 String (or sentence2, "
      "text2, text_b) and Quality (or label, labels), found \"label\", \"sentence1\"");
}

TEST_CASE("names that are there twice are refused") {
  check_says(error("sst2", "train.tsv", "sentence\tlabel\tsentence\na\t1\tb\n"),
             "found columns 1 (\"sentence\") and 3 (\"sentence\"): leave one");
  check_says(error("sst2", "train.tsv", "sentence\tlabel\ttext\na\t1\tb\n"),
             "found columns 1 (\"sentence\") and 3 (\"text\")");
  check_says(error("sst2", "train.jsonl", R"({"sentence": "a", "label": 1, "sentence": "b"})"),
             "found \"sentence\" twice");
  check_says(error("sst2", "train.json", R"([{"sentence": "a", "label": 1, "label": 0}])"),
             "found \"label\" twice");
  // Other columns may be called what they like.
  CHECK(read("sst2", "train.tsv", "x\tsentence\tlabel\tx\n0\ta\t1\t0\n").examples.size() == 1);
  CHECK(read("sst2", "train.json", R"([{"sentence": "a", "label": 1}, {"sentence": "b", "label": 1}])")
            .examples.size() == 2);
}

TEST_CASE("a header that is missing, or there where none should be, or there twice") {
  check_says(
      error("sst2", "train.tsv", "good\t1\nbad\t0\n"),
      "train.tsv:1: expected a header, found a row with the label 1. The header names the columns sentence "
      "(or text) and label");
  check_says(error("mrpc", "train.csv", "good,bad,1\n"), "expected a header, found a row with the label 1");
  check_says(error("rte", "train.tsv", "0\ta\tb\tNot_Entailment\n"),
             "expected a header, found a row with the label Not_Entailment");
  check_says(error("sst2", "test.tsv", "0\tgood\n", Split::test),
             "test.tsv:1: expected a header with the columns sentence (or text), found 2 tab-separated: "
             "\"0\", \"good\"");
  check_says(error("cola", "train.csv", "gj04,1,,They left.\n"),
             "expected a header, found a row with the label 1");
  // CoLA has none; one with other names is no row.
  check_says(
      error("cola", "train.tsv", "source\tjudgement\tmark\tutterance\ngj04\t1\t\tThey left.\n"),
      "train.tsv:1: expected a label, a whole number from 0 to 1, found \"judgement\"; or a header with the "
      "columns sentence (or text) and label");
  check_says(error("sst2", "train.tsv", "sentence\tlabel\na\t1\nsentence\tlabel\nb\t0\n"),
             "train.tsv:3: expected a row, found the header once more");
  check_says(error("sst2", "test.tsv", "index\tsentence\n0\ta\nindex\tsentence\n", Split::test),
             "test.tsv:3: expected a row, found the header once more");
}

TEST_CASE("quotes: text in GLUE's files, quoting where CSV was written") {
  const std::string header = "sentence\tlabel\n";
  const auto sst = [&](const std::string& rows) { return text_of(read("sst2", "train.tsv", header + rows)); };
  CHECK(sst("\"Yes.\"\t1\n") == "\"Yes.\"=1.00|");
  CHECK(sst("\"a\" b\t1\n\"\"c\"\"\t0\n") == "\"a\" b=1.00|\"\"c\"\"=0.00|");
  CHECK(sst("\"one\t1\ntwo\"\t0\n") == "\"one=1.00|two\"=0.00|");
  CHECK(sst("\"one\t1\r\ntwo\"\t0\r\n") == "\"one=1.00|two\"=0.00|");
  CHECK(sst("\"one\"\"\t1\ntwo\"\t0\n") == "\"one\"\"=1.00|two\"=0.00|");
  CHECK(sst("\"say \"\"a\"\"\"\t1\n") == "say \"a\"=1.00|");
  CHECK(sst("\"one\ttwo\"\t1\nb\t0\n") == "one\ttwo=1.00|b=0.00|");
  CHECK(sst("\"one\ntwo\"\t1\nb\t0\n") == "one\ntwo=1.00|b=0.00|");
  CHECK(text_of(read("sst2", "train.tsv", "\"sentence\"\t\"label\"\n\"a\"\t\"1\"\n")) == "a=1.00|");
  CHECK(text_of(read("sst2", "train.tsv", "\"sentence\"\t\"label\"\r\n\"a\"\t\"1\"\r\n")) == "a=1.00|");
  CHECK(text_of(read("sst2", "train.csv", "\"sentence\",\"label\"\r\n\"a\",\"1\"\r\n")) == "a=1.00|");
  CHECK(sst("\"one\rtwo\"\t1\n") == "one\rtwo=1.00|");
  CHECK(read("sst2", "test.tsv", "sentence\n\"one\ntwo\"\n", Split::test).examples.at(0).a == "one\ntwo");
  check_says(error("sst2", "train.tsv", "\"sentence\"\t\"label\"\n\"a \"b\"\t\"1\"\n"),
             "train.tsv:1: expected quotes as CSV has them");
  const auto csv = [&](const std::string& rows) {
    return error("sst2", "train.csv", "sentence,label\n" + rows);
  };
  check_says(csv("a,1\n\"b,0\nc,1\n"), "train.csv:3: expected a closing quote");
  check_says(csv("a,1\n\"b\" c,0\n"),
             "train.csv:3: expected a comma or the end of the line after a closing quote");
  check_says(csv("\"a\nb\",1\n\"c\n\n\",1,2\n"), "train.csv:4: expected 2 comma-separated columns, found 3");
  CHECK(text_of(read("sst2", "train.csv", "sentence,label\n5\" pipe,1\n\"a, b\",0")) ==
        "5\" pipe=1.00|a, b=0.00|");
  CHECK(read("sst2", "test.csv", "sentence\n\"a, b\"\nc\n", Split::test).examples.at(0).a == "a, b");

  CHECK_FALSE(looks_quoted("", '\t'));
  CHECK_FALSE(looks_quoted("a\tb", '\t'));
  CHECK_FALSE(looks_quoted("\"", '\t'));
  CHECK_FALSE(looks_quoted("\"\"\"\"\"", '\t'));
  CHECK(looks_quoted("a\t\"\"\"\"\r\n", '\t'));
}

TEST_CASE("labels: names in any case, or numbers") {
  const auto label = [](const char* task, const std::string& text) {
    return read(task, "train.tsv", "sentence1\tsentence2\tlabel\na\tb\t" + text + "\n").examples.at(0).label;
  };
  for (const char* text : {"contradiction", "Contradiction", "CONTRADICTION", "2", "2.0"})
    CHECK(label("mnli", text) == 2.0F);
  CHECK(label("mnli", "0") == 0.0F);
  CHECK(label("mnli", "neutral") == 1.0F);
  for (const char* text : {"not_entailment", "not entailment", "Not-Entailment", "1"})
    CHECK(label("rte", text) == 1.0F);
  check_says(error_of([&] { label("mnli", "3"); }),
             "expected a label, one of entailment, neutral, contradiction, found \"3\" (numbers from 0 to 2 "
             "stand for "
             "them in this order)");
  check_says(error_of([&] { label("mnli", "-1"); }), "-1 stands for a label that is not public");
  check_says(error_of([&] { label("mnli", "-"); }), "\"-\" stands for no label");
  check_says(error("mrpc", "train.csv", "sentence1,sentence2,label\na,b,-1\n"),
             "train.csv:2: expected a label, a whole number from 0 to 1, found \"-1\". -1 stands for a label "
             "that is not "
             "public: is this a test split?");
  check_says(error("sst2", "train.jsonl", R"({"sentence": "a", "label": null})"), "found \"null\"");
  // True and false, as pandas writes them, say which of two classes only where those are 0 and 1.
  for (const char* task : {"mrpc", "qqp", "wnli"}) {
    const std::string name = task;
    const std::string header = name == "qqp" ? "question1,question2,label\n" : "sentence1,sentence2,label\n";
    CHECK(text_of(read(task, "train.csv", header + "a,b,True\nc,d,False\n")) == "a/b=1.00|c/d=0.00|");
  }
  CHECK(text_of(read("sst2", "train.jsonl",
                     "{\"sentence\": \"a\", \"label\": true}\n{\"sentence\": \"b\", \"label\": false}")) ==
        "a=1.00|b=0.00|");
  for (const char* task : {"rte", "mnli"}) {
    check_says(error(task, "train.csv", "sentence1,sentence2,label\na,b,True\n"),
               "found \"True\" (numbers from 0 to");
    check_says(error(task, "train.jsonl", R"({"sentence1": "a", "sentence2": "b", "label": false})"),
               "true and false do not say which: write the names");
  }
  check_says(error("stsb", "train.csv", "sentence1,sentence2,label\na,b,True\n"), "found \"True\"");
  // In MNLI's exported files -1 is "no label", as in SNLI's.
  const Dataset mnli = read("mnli", "train.csv", "premise,hypothesis,label\na,b,-1\nc,d,1\n");
  CHECK(text_of(mnli) == "c/d=1.00|");
  CHECK(mnli.unlabelled == 1);
}

TEST_CASE("indices of a test split") {
  CHECK(read("sst2", "test.tsv", "sentence\tidx\na\t12\nb\t3\n", Split::test).indices ==
        std::vector<std::string>{"12", "3"});
  CHECK(read("qqp", "test.tsv", "id\tquestion1\tquestion2\n4\ta\tb\n", Split::test).indices.at(0) == "4");
  CHECK(read("sst2", "test.tsv", "sentence\na\n", Split::test).indices.empty());
  check_says(error("sst2", "test.tsv", "index\tsentence\n0\ta\n1.0\tb\n", Split::test),
             "test.tsv:3: expected a whole number as index, found \"1.0\"");
  check_says(error("sst2", "test.jsonl", R"({"sentence": "a", "idx": null})", Split::test), "found \"null\"");
  check_says(error("sst2", "test.csv", "idx,sentence\n5,a\n6,b\n5,c\n", Split::test),
             "test.csv: expected each index once, found 5 twice");
}

TEST_CASE("scores that were brought to 0..1 are not those of STS-B") {
  std::string rows = "sentence1\tsentence2\tscore\n";
  for (int i = 0; i < 25; ++i)
    rows += "a\tb\t" + std::to_string(i / 25.0) + "\n";
  check_says(error("stsb", "train.tsv", rows),
             "expected scores from 0 to 5, found none above 0.96 in 25 rows");
  CHECK(read("stsb", "train.tsv", rows + "a\tb\t1.2\n").examples.size() == 26);
}

TEST_CASE("a file all of whose rows are left out says why") {
  check_says(error("qqp", "train.tsv",
                   "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\ta ?\n1\t2\t3\tb ?\n"),
             "train.tsv: expected rows, found none that can be used: 2 have too few columns");
  check_says(error("mnli", "train.csv", "premise,hypothesis,label\na,b,-1\nc,d,-1\nc,d,-1\n"),
             "train.csv: expected rows, found none that can be used: 3 have the label \"-1\", which stands "
             "for none");
  check_says(error("mnli", "train.jsonl", " \n{}"), "train.jsonl:2: expected the keys");
  check_says(error("mnli", "train.json", "[]"), "found a header alone");
}

TEST_CASE("encodings and line ends") {
  const std::string rows = "sentence\tlabel\ngood\t1\nbad\t0\n";
  const auto sst = [&](const std::string& content) { return error("sst2", "train.tsv", content); };
  std::string wide = "\xFF\xFE";
  for (const char c : rows)
    wide += std::string{c, '\0'};
  check_says(sst(wide),
             "train.tsv: expected text in UTF-8, found UTF-16 (by its byte order mark). Convert it: iconv");
  check_says(sst(wide.substr(2)), "train.tsv:1: expected text, found a NUL byte at byte 1");
  check_says(
      sst("sentence\tlabel\ncaf\xE9\t1\n"),
      "train.tsv:2: expected UTF-8, found an invalid byte at byte 3 of the line. If the file is Latin-1");
  check_says(sst("\x1F\x8B\x08"), "found a gzip file");
  check_says(sst("PK\x03\x04..."), "found a zip archive");
  check_says(error("sst2", "train.csv", "PAR1\x15\x04"),
             "found a Parquet file. Write it as JSON lines: python3 -c \"import pandas");
  std::string old = rows;
  std::replace(old.begin(), old.end(), '\n', '\r');
  const std::string expected = "good=1.00|bad=0.00|";
  for (const std::string& content :
       {old, rows + "\n\n", rows.substr(0, rows.size() - 1), "\xEF\xBB\xBF" + rows}) {
    CHECK(text_of(read("sst2", "train.tsv", content)) == expected);
  }
  CHECK(text_of(read("sst2", "train.csv", "sentence,label\r\n\"good\",1\r\nbad,0\r\n\r\n")) == expected);
  // A CR among LFs is a character.
  CHECK(read("sst2", "train.tsv", "sentence\tlabel\na\rb\t1\n").examples.at(0).a == "a\rb");
}

TEST_CASE("JSON lines: what is wrong is said with its line") {
  const std::string good = R"({"sentence": "a", "label": 1})"
                           "\n";
  const auto sst = [&](const std::string& content) { return error("sst2", "train.jsonl", content); };
  check_says(sst(good + R"({"sentence": "a", "label": )"), "train.jsonl:2: expected JSON, an object a line");
  check_says(sst(good + "\n" + R"({"sentence": "a"})"),
             "train.jsonl:3: expected the key \"label\" as in the first row");
  check_says(sst(good + R"({"sentence": null, "label": 1})"),
             "train.jsonl:2: expected text as \"sentence\", found \"null\"");
  check_says(sst(good + "3"), "train.jsonl:2: expected a JSON object, found number");
  check_says(sst(R"({"sentence": "a\u0000", "label": 1})"), "found a NUL character");
  check_says(sst(good + "{\"sentence\": {\"0\": \"a\"}, \"label\": {\"0\": 1}}"),
             "train.jsonl:2: expected text as \"sentence\", found");
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  for (const std::string& text : {"{\"sentence\": " + deep + ", \"label\": 1}", deep}) {
    check_says(error("sst2", "train.jsonl", text), "train.jsonl:1: ");
    check_says(error("sst2", "train.jsonl", text), "nested at most 256 deep, found deeper ones");
  }
  check_says(error("sst2", "train.json", R"([{"sentence": "a", "label": 1}, {"sentence": "a", "label": 7}])"),
             "train.json:1: element 2: expected a label");
  CHECK(read("sst2", "train.jsonl", R"({"label": "1", "sentence": "a"})").examples.at(0).label == 1.0F);
}

TEST_CASE("JSON as pandas writes it by default, and by every orient that has the columns' names") {
  const std::string expected = "one=1.00|two=0.00|three=1.00|";
  // Shuffled rows keep the file's order, which is not that of their numbers' text.
  const std::string columns =
      R"({"sentence": {"10": "one", "9": "two", "1": "three"}, "label": {"10": 1, "9": 0, "1": 1}})";
  const std::string table =
      R"({"schema": {"fields": [{"name": "index", "type": "integer"}, {"name": "sentence", "type": "string"}]},)"
      R"( "data": [{"index": 0, "sentence": "one", "label": 1}, {"index": 1, "sentence": "two", "label": 0},)"
      R"( {"index": 2, "sentence": "three", "label": 1}]})";
  for (
      const std::string& text :
      {columns, R"({"sentence": ["one", "two", "three"], "x": 3, "label": [1, 0, 1]})"s,
       R"({"columns": ["x", "label", "sentence"], "index": [2, 1, 0],)"
       R"( "data": [[null, 1, "one"], [null, 0, "two"], [null, true, "three"]]})"s,
       table,
       R"({"10": {"sentence": "one", "label": 1}, "9": {"sentence": "two", "label": 0},)"
       R"( "1": {"sentence": "three", "label": 1}})"s,
       R"([{"sentence": "one", "label": 1}, {"sentence": "two", "label": 0}, {"sentence": "three", "label": 1}])"s}) {
    CAPTURE(text);
    std::string indented;
    for (const char c : text)
      indented += c == '{' || c == '[' ? std::string{c, '\n'} : std::string{c};
    for (const std::string& form : {text, text + "\n", indented}) {
      CHECK(text_of(read("sst2", "train.json", form)) == expected);
      CHECK(text_of(read("sst2", "train.jsonl", form)) == expected);
    }
  }
  CHECK(text_of(read("mnli", "train.json",
                     R"({"text_a":{"0":"a","1":"c"},"text_b":{"0":"b","1":"d"},"labels":{"0":-1,"1":2}})")) ==
        "c/d=2.00|");
  CHECK(read("sst2", "test.json", R"({"idx":{"0":7,"1":8},"sentence":{"0":"a","1":"b"}})", Split::test)
            .indices == std::vector<std::string>{"7", "8"});
  CHECK(text_of(read("sst2", "train.json", "{\n \"sentence\": \"a\",\n \"label\": 1\n}\n")) == "a=1.00|");

  const auto sst = [](const std::string& text) { return error("sst2", "train.json", text); };
  check_says(sst(R"({"sentence":{"0":"a","1":"b"},"label":{"0":1,"1":7}})"),
             "train.json:1: row 2: expected a label");
  check_says(sst(R"({"sentence":{"0":"a","1":null},"label":{"0":1,"1":0}})"),
             "train.json:1: row 2: expected text as \"sentence\", found \"null\"");
  check_says(sst(R"({"sentence":{"0":"a","1":"b"},"label":{"0":1}})"),
             "expected the columns with the same rows each, found 2 of \"sentence\" and 1 of \"label\"");
  check_says(sst(R"({"sentence":{"0":"a"},"label":1})"), "found 1 of \"sentence\" and none of \"label\"");
  check_says(sst(R"({"sentence":{"0":"a"},"label":{"1":1}})"), "found no \"0\" in \"label\"");
  check_says(sst(R"({"sentence":{"0":"a","0":"b"},"label":{"0":1}})"), "found \"0\" twice");
  check_says(sst(R"({"sentence":["a"],"label":[1],"text":["b"]})"), "leave one of them");
  check_says(sst(R"({"columns":["sentence","label"],"data":[["a",1],["b"]]})"),
             "train.json:1: row 2: expected a list of 2 values, one of each column, found");
  check_says(sst(R"({"columns":["sentence"],"data":[["a"]]})"),
             "expected the keys sentence (or text) and label");
  check_says(sst(R"({"data":[{"sentence":"a","label":1,"label":0}]})"), "found \"label\" twice");
  check_says(sst(R"({"0":{"sentence":"a","label":1,"label":0}})"), "found \"label\" twice");
  check_says(sst(R"({"0":{"phrase":"a","label":1}})"), "row 1: expected the keys");
  check_says(sst(R"({"sentence":{},"label":{}})"), "found a header alone");
  check_says(sst(R"([["a", 1]])"), "expected a JSON object, found array");
}

TEST_CASE("columns as simpletransformers calls them") {
  CHECK(text_of(read("sst2", "train.csv", ",text,labels\n0,a,1\n1,b,0\n")) == "a=1.00|b=0.00|");
  for (const char* task : {"mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}) {
    CAPTURE(task);
    CHECK(text_of(read(task, "train.tsv", "text_a\ttext_b\tlabels\na\tb\t1\n")) == "a/b=1.00|");
  }
  check_says(error("sst2", "train.csv", "text,labels,label\na,1,1\n"), "leave one of them");
}

TEST_CASE("rows without any text are refused in every layout, and counted") {
  const std::string message =
      " expected text, found a row without any (2 such rows in the file). Leave them out";
  for (const Split split : {Split::train, Split::dev, Split::test}) {
    const std::string name = split == Split::train ? "train" : split == Split::dev ? "dev" : "test";
    CHECK(error("sst2", name + ".csv", "sentence,label\na,1\n,1\n  ,0\n", split)
              .find(name + ".csv:3:" + message) != std::string::npos);
    check_says(error("mrpc", name + ".tsv", "sentence1\tsentence2\tlabel\na\tb\t1\n\t\t1\n \t\t0\n", split),
               name + ".tsv:3:" + message);
    check_says(error("sst2", name + ".jsonl",
                     "{\"sentence\": \"\", \"label\": 1}\n\n{\"sentence\": \" \", \"label\": 1}", split),
               name + ".jsonl:1:" + message);
    check_says(error("sst2", name + ".json", R"({"sentence": ["a", "", ""], "label": [1, 0, 0]})", split),
               name + ".json:1: row 2:" + message);
  }
  check_says(error("sst2", "test.tsv", "sentence\na\n\n\nb\n", Split::test), "test.tsv:3:" + message);
  check_says(error("cola", "train.tsv", "x\t1\t\t\nx\t1\t\t\n"), "train.tsv:1:" + message);
  check_says(error("stsb", "sts-train.csv", "g\tf\ty\t1\t5\t\t\ng\tf\ty\t1\t5\t\t\n"), message);
  // Quora's file has pairs of which one question is empty.
  CHECK(text_of(read("qqp", "train.tsv", "question1\tquestion2\tis_duplicate\na\t\t0\n\tb\t0\n")) ==
        "a/=0.00|/b=0.00|");
}

TEST_CASE(
    "Parquet, Arrow and packed files are refused with the command that turns them into a readable one") {
  const fs::path folder = fresh_folder("other_forms");
  const Task& task = find_task("rte");
  const auto fails = [&](Split split) { return error_of([&] { load_split(task, folder, split); }); };
  for (const char* inner : {"RTE", "RTE/data", ""}) {
    CAPTURE(inner);
    fs::remove_all(folder);
    const fs::path file = folder / inner / "validation-00000-of-00001.parquet";
    write_file(file, "PAR1");
    write_file(folder / inner / "train-00000-of-00001.parquet", "PAR1");
    const fs::path target = (*inner == '\0' ? folder : folder / "RTE") / "dev.jsonl";
    check_says(fails(Split::dev),
               file.lexically_normal().string() +
                   " is a Parquet file, which is not read: python3 -c \"import pandas, sys; "
                   "pandas.read_parquet(sys.argv[1]).to_json(sys.argv[2], orient='records', lines=True)\" '" +
                   file.string() + "' '" + target.string() + "'");
    check_says(fails(Split::train), "train-00000-of-00001.parquet' '");
    check_says(fails(Split::test), "'FILE.parquet' '");
    check_says(fails(Split::train), " Read as well: train.csv, or the same with");
  }
  fs::remove_all(folder);
  const fs::path alone = write_file(folder / "dev.parquet", "PAR1");
  check_says(error_of([&] { load_split(task, alone, Split::dev); }),
             "to be a file. " + alone.string() + " is a Parquet file, which is not read");
  fs::remove_all(folder);
  write_file(folder / "rte/validation/data-00000-of-00001.arrow", "ARROW1");
  check_says(fails(Split::dev), "is an Arrow file of datasets, which is not read: python3 -c");
  fs::remove_all(folder);
  write_file(folder / "rte/dev.tsv.gz", "\x1F\x8B");
  check_says(fails(Split::dev), "is a gzip file, which is not read: gunzip '");
  // Another task's files are no reason.
  fs::remove_all(folder);
  write_file(folder / "QNLI/dev.parquet", "PAR1");
  CHECK(fails(Split::dev).find("Parquet") == std::string::npos);
}

TEST_CASE("GLUE's diagnostic set") {
  const Task& ax = find_task("ax");
  CHECK(&find_task("AX") == &ax);
  CHECK(&find_task("diagnostic") == &ax);
  CHECK(ax.label_names == find_task("mnli").label_names);
  CHECK(ax.submission == "AX.tsv");
  const std::string hidden = "index\tsentence1\tsentence2\n0\tThe cat sat.\tThe cat did not sit.\n1\tb\tc\n";
  const std::string full =
      "Lexical Semantics\tPredicate-Argument "
      "Structure\tLogic\tKnowledge\tDomain\tPremise\tHypothesis\tLabel\n"
      "\t\tNegation\t\tArtificial\tThe cat sat.\tThe cat did not sit.\tcontradiction\n";
  for (const char* file : {"diagnostic/diagnostic.tsv", "AX/AX.tsv", "AX.tsv", "MNLI/diagnostic.tsv",
                           "ax/test.tsv", "AX/diagnostic.tsv"}) {
    CAPTURE(file);
    const fs::path folder = fresh_folder("ax");
    write_file(folder / file, hidden);
    const Dataset data = load_split(ax, folder, Split::test);
    CHECK(data.name == "ax/test");
    CHECK(text_of(data) == "The cat sat./The cat did not sit.=0.00|b/c=0.00|");
    CHECK(data.indices == std::vector<std::string>{"0", "1"});
    check_says(error_of([&] { load_split(ax, folder, Split::dev); }), "expected diagnostic-full.tsv in");
    check_says(error_of([&] { load_split(ax, folder, Split::train); }),
               "task ax: has no train split: train on mnli, and evaluate that model");
  }
  const fs::path folder = fresh_folder("ax") / "MNLI";
  write_file(folder / "diagnostic-full.tsv", full);
  write_file(folder / "test.tsv", hidden);  // may be anybody's
  for (const fs::path& given : {folder, folder.parent_path()}) {
    CHECK(text_of(load_split(ax, given, Split::dev)) == "The cat sat./The cat did not sit.=2.00|");
    CHECK(text_of(load_split(ax, given, Split::test)) == "The cat sat./The cat did not sit.=0.00|");
  }
}

TEST_CASE("what is missing is said with what is there") {
  const fs::path folder = fresh_folder("missing_layouts");
  write_file(folder / "RTE/train-00000-of-00001.parquet", "PAR1");
  const std::string error = error_of([&] { load_split(find_task("rte"), folder, Split::dev); });
  check_says(error, "task rte: expected dev.tsv in");
  check_says(error, "found none there (" + (folder / "RTE").string() + " has train-00000-of-00001.parquet)");
  check_says(error,
             "Read as well: dev.csv or validation.csv or val.csv, or the same with .tsv, .jsonl or .json");
  check_says(error_of([&] { load_split(find_task("ax"), folder, Split::dev); }),
             "found none there. To get the");
}
