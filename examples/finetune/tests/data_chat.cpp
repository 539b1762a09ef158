// Conversations from files, chat templates, and what of them is predicted.
#include <sparsegrad/core/error.hpp>

#include "data/causal_dataset.hpp"
#include "files.hpp"

using namespace sparsegrad;
using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;

namespace {

namespace fs = std::filesystem;

const fs::path& folder() {
  static const fs::path path = fresh_folder("data_chat");
  return path;
}

Conversations read(const std::string& text, const ConversationFormat& format = {}) {
  return read_conversations(write_file(folder() / "data.jsonl", text), format);
}
std::string refused(const std::string& text, const ConversationFormat& format = {}) {
  return error_of([&] { (void)read(text, format); });
}

Conversation pair(const std::string& question, const std::string& answer) {
  return {{Role::user, question}, {Role::assistant, answer}};
}

Conversation conversation_of(const nlohmann::json& messages) {
  Conversation conversation;
  for (const nlohmann::json& message : messages) {
    const std::string role = message["role"];
    conversation.push_back({role == "system" ? Role::system
                            : role == "user" ? Role::user
                                             : Role::assistant,
                            message["content"]});
  }
  return conversation;
}

/// A letter is a token, and so is what stands in <>.
std::vector<std::int32_t> letters(std::string_view text) {
  std::vector<std::int32_t> ids;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '<') {
      ids.push_back(1000 + text[i + 2]);
      i = text.find('>', i);
    } else {
      ids.push_back(text[i]);
    }
  }
  return ids;
}

}  // namespace

TEST_CASE("records of all kinds become conversations") {
  const std::vector<Conversation> one{pair("Q", "A")};
  CHECK(read(R"({"question": "Q", "answer": "A"})").examples == one);
  CHECK(read("\n"
             R"({"question": "Q", "answer": "A", "id": 3})"
             "\r\n\n")
            .examples == one);
  CHECK(read(R"([{"question": "Q", "answer": "A"}])").examples == one);
  CHECK(read("[\n {\"question\": \"Q\",\n\"answer\": \"A\"} ,\n {\"question\": \"[\\\"}\", \"answer\": "
             "\"B\"}\n]\n")
            .examples == std::vector<Conversation>{pair("Q", "A"), pair("[\"}", "B")});
  CHECK(read(R"({"instruction": "Q", "input": "", "output": "A"})").examples == one);
  CHECK(read(R"({"instruction": "Q", "output": "A"})").examples == one);
  CHECK(read(R"({"instruction": "Q", "input": "X", "output": "A"})").examples ==
        std::vector<Conversation>{pair("Q\n\nX", "A")});
  CHECK(read(R"({"prompt": "Q", "completion": "A"})").examples == one);
  CHECK(read(R"({"prompt": "Q", "response": "A"})").examples == one);
  CHECK(read(R"({"input": "### Human: Q ### Assistant:", "output": "A"})").examples == one);
  CHECK(read(R"({"a": "Q", "b": "A"})", {"a", "b", false}).examples == one);
  CHECK(read(R"({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]})")
            .examples == one);
  CHECK(read(R"({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]})")
            .examples == one);
  const Conversations system =
      read(R"({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}, )"
           R"({"role": "assistant", "content": "A"}, {"role": "user", "content": "more"}]})");
  // A question without an answer behind it is left out.
  CHECK(system.examples ==
        std::vector<Conversation>{{{Role::system, "S"}, {Role::user, "Q"}, {Role::assistant, "A"}}});
  const Conversations none = read(R"({"question": "Q", "answer": " "})"
                                  "\n"
                                  R"({"question": "Q", "answer": "A"})");
  CHECK(none.examples == one);
  CHECK(none.unanswered == 1);
}

TEST_CASE("records of multiple choice have their choices, and the right one as their answer") {
  const auto check = [](const std::string& text, const std::string& kind, const Conversation& wanted,
                        const std::vector<std::string>& choices, std::size_t right) {
    CAPTURE(text);
    const Conversations found = read(text);
    CHECK(found.kind == kind);
    REQUIRE(found.examples.size() == 1);
    CHECK(found.examples[0] == wanted);
    REQUIRE(found.choices.size() == 1);
    CHECK(found.choices[0].texts == choices);
    CHECK(found.choices[0].right == right);
  };
  const std::string instruction = "Which? Answer1: a Answer2: b\n\nAnswer format: answer1/answer2";
  check(nlohmann::json{{"instruction", instruction},
                       {"input", ""},
                       {"output", "the correct answer is answer2"},
                       {"answer", "answer2"}}
            .dump(),
        "instruction, output, answer of multiple choice", pair(instruction, "the correct answer is answer2"),
        {"the correct answer is answer1", "the correct answer is answer2"}, 1);
  check(R"({"id": "M_1", "question": {"stem": "Q", "choices": [{"text": "a", "label": "A"},)"
        R"({"text": "b", "label": "B"}, {"text": "c", "label": "C"}]}, "answerKey": "C"})",
        "question with stem and choices, answerKey", pair("Q", "c"), {"a", "b", "c"}, 2);
  check(R"({"question": "Q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "1"})",
        "question, choices with text and label, answerKey", pair("Q", "a"), {"a", "b"}, 0);
  check(R"({"question_stem": "Q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "1"})",
        "question, choices with text and label, answerKey", pair("Q", "a"), {"a", "b"}, 0);
  check(R"({"question": "Q", "subject": "s", "choices": ["a", "b"], "answer": 1})",
        "question, choices, answer by its number", pair("Q", "b"), {"a", "b"}, 1);

  // A test set without its answers.
  const std::string known =
      R"({"question": "Q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": )";
  const Conversations some = read(known + "\"2\"}\n" + known + "\"\"}\n");
  CHECK(some.examples.size() == 1);
  CHECK(some.choices.size() == 1);
  CHECK(some.unanswered == 1);
  // Instructions without a choice are what they were.
  const Conversations plain = read(R"({"instruction": "Q", "output": "5", "answer": "5"})");
  CHECK(plain.kind == "instruction, input, output");
  CHECK(plain.choices.empty());

  const auto refuses = [](const std::string& text, const std::string& message) {
    check_says(refused(text), message);
  };
  refuses(known + "\"3\"}",
          "data.jsonl:1: answerKey is \"3\", expected one of the labels of the choices: 1, 2");
  refuses(known + "1}", "the field \"answerKey\" of a record of multiple choice is number, expected a text");
  refuses(R"({"question": "Q", "choices": {"text": ["a"], "label": ["1", "2"]}, "answerKey": "1"})",
          "1 texts of choices have 2 labels");
  refuses(R"({"question": "Q", "choices": {"text": ["a"], "label": ["1"]}, "answerKey": "1"})",
          "a question has a single choice");
  refuses(R"({"question": "Q", "choices": ["a", ""], "answer": 0})", "a choice is empty");
  refuses(R"({"question": "Q", "choices": ["a", "b"], "answer": 2})",
          "the field \"answer\" is 2, expected a number of one of the 2 choices");
  refuses(R"({"question": "Q", "choices": ["a", "b"], "answer": -1})", "the field \"answer\" is -1");
  const std::string twice = "data.jsonl:1: two choices have the label \"1\", expected a label for each: 1, 1";
  refuses(R"({"question": "Q", "choices": {"text": ["a", "b"], "label": ["1", "1"]}, "answerKey": "1"})",
          twice);
  refuses(
      R"({"question": {"stem": "Q", "choices": [{"text": "a", "label": "1"}, {"text": "b", "label": "1"}]}, )"
      R"("answerKey": "1"})",
      twice);
  refuses(R"({"instruction": "Q Answer format: x/x", "output": "it is x", "answer": "x"})",
          "two choices have the label \"x\"");
  refuses(R"({"question": {"stem": "Q", "choices": [{"text": "a"}, {"text": "b"}]}, "answerKey": "A"})",
          "the field \"label\" of a record of multiple choice is missing");
  refuses(R"({"instruction": "Q Answer format: x/y", "output": "it is z", "answer": "z"})",
          "the answer is \"z\", expected one of those that the instruction ends with");
  refuses(R"({"instruction": "Q Answer format: x/y", "output": "it is so", "answer": "y"})",
          "expected the answer \"y\" in it");
  const std::string good = R"({"question": "Q", "choices": ["a", "b"], "answer": 0})";
  refuses(good + "\n" + R"({"question": "Q", "answer": "A"})", "data.jsonl:2: the field \"choices\"");
}

TEST_CASE("trees of OpenAssistant: the best-ranked path, or all; synthetic ones are left out") {
  const std::string tree = R"({"prompt": {"text": "Q", "role": "prompter", "synthetic": false, "replies": [
    {"text": "worse", "role": "assistant", "rank": 1, "replies": []},
    {"text": "best", "role": "assistant", "rank": 0, "replies": [
      {"text": "Q2", "role": "prompter", "replies": [{"text": "A2", "role": "assistant", "replies": []}]},
      {"text": "Q3", "role": "prompter", "replies": []}]},
    {"text": "gone", "role": "assistant", "deleted": true, "replies": []}]}})";
  std::string line = tree;
  std::erase(line, '\n');
  const Conversation best{
      {Role::user, "Q"}, {Role::assistant, "best"}, {Role::user, "Q2"}, {Role::assistant, "A2"}};
  CHECK(read(line).examples == std::vector<Conversation>{best});
  CHECK(read(line, {"", "", true}).examples == std::vector<Conversation>{best, pair("Q", "worse")});
  const std::string lone = R"({"prompt": {"text": "Q", "role": "prompter", "replies": []}})";
  const std::string synthetic =
      R"({"prompt": {"text": "Q", "role": "prompter", "synthetic": true, "replies": [{"text": "A", "role": "assistant"}]}})";
  const Conversations found = read(line + "\n" + lone + "\n" + synthetic);
  CHECK(found.examples.size() == 1);
  CHECK(found.unanswered == 1);
  CHECK(found.synthetic == 1);
  CHECK(read(line + "\n" + R"({"prompt": {"text": "Q", "role": "prompter", "replies": null}})").unanswered ==
        1);
  check_says(refused(line + "\n" + R"({"prompt": {"text": "Q", "role": "prompter", "replies": "A"}})"),
             "data.jsonl:2: the field \"replies\" is string, expected a list of messages");
  // Below an answer, where it would pass for a question without one.
  check_says(
      refused(R"({"prompt": {"text": "Q", "role": "prompter", "replies": [{"text": "A", "role": "assistant",)"
              R"( "replies": [{"text": "Q2", "role": "prompter", "replies": {}}]}]}})"),
      ":1: the field \"replies\" is object, expected a list of messages");
}

TEST_CASE("records that are malformed are refused with file and line") {
  const std::string good = R"({"question": "Q", "answer": "A"})";
  check_says(refused(good + "\n" + R"({"question": "Q"})"),
             "data.jsonl:2: the record has no field \"answer\"");
  check_says(refused(good + "\n" + R"({"question": "Q", "answer": 3})"),
             ":2: the field \"answer\" is number");
  check_says(refused(good + "\n" + good.substr(0, 20)), ":2: expected a JSON object on this line");
  check_says(refused("[" + good + ",\n" + good.substr(0, 20)),
             ":2: the JSON array has no end: the file was cut short");
  check_says(refused(good + "\n" + good.substr(0, 20)), "it has no end: is the file cut short?");
  check_says(refused("question,answer\nQ,A"), ":1: expected a JSON object on this line");
  check_says(refused("question,answer\nQ,A"), "found \"question,answer\"; byte 1: ");
  check_says(refused(good + "\n" + good + " " + good), ":2: expected a JSON object on this line");
  check_says(refused(good + "\n" + good + " " + good), "; byte 34: ");
  check_says(refused(good + "\n{'question': 'Q'}"), "found \"{'question': 'Q'}\"; byte 2: ");
  check_says(refused(good + "\n" + R"({"question": "Q", "answer": "A", "answer": "B"})"),
             ":2: expected each key of an object once, found \"answer\" twice");
  check_says(refused(R"({"messages": [{"role": "user", "role": "assistant", "content": "Q"}]})"),
             "found \"role\" twice");
  check_says(refused("[" + good + ",\n" + good + ", ]"), ":2: the JSON array ends behind a comma");
  check_says(refused("[," + good + "]"), ":1: expected a JSON object");
  check_says(refused(R"({"question": "Q", "answer": ""})"),
             "expected answers, found none in all of its records, 1");
  check_says(refused("[" + good + ",\n 3]"), ":2: expected a JSON object, found number");
  check_says(refused(good + "\n[1]"), ":2: expected a JSON object, found array");
  check_says(refused(R"({"a": "Q", "b": "A"})"), ":1: the fields are a, b; expected question and answer;");
  check_says(refused(R"({"a": "Q", "b": "A"})"), "--fields QUESTION,ANSWER");
  check_says(refused(good, {"text", "label", false}), "no field \"label\"");
  check_says(refused("\x1F\x8B"
                     "xyz"),
             "gunzip");
  check_says(refused("  \n"), "expected records, found none");
  check_says(refused(R"({"messages": [{"role": "tool", "content": "Q"}]})"),
             "role is \"tool\", expected system, user or");
  check_says(refused(R"({"messages": [{"role": "user", "content": "Q"}, {"role": "user", "content": "Q"},
      {"role": "assistant", "content": "A"}]})"),
             "expected a JSON object");
  check_says(
      refused(
          R"({"messages": [{"role": "user", "content": "Q"}, {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]})"),
      "message 2 is the user's, expected the assistant's");
  check_says(error_of([] { (void)read_conversations(folder() / "none.jsonl"); }),
             "none.jsonl: cannot be opened: No such file or directory");
}

TEST_CASE("templates are recognised, and write what transformers writes") {
  std::ifstream stream(fs::path(SPARSEGRAD_TEST_DIR) / "golden" / "chat_templates.json");
  REQUIRE(stream.good());
  for (const nlohmann::json& golden : nlohmann::json::parse(stream)) {
    CAPTURE(golden["case"].get<std::string>());
    const ChatTemplate chat =
        ChatTemplate::recognise("model", golden["template"].get<std::string>(), {"<s>", "</s>"});
    CHECK(chat.name() == golden["name"]);
    for (const nlohmann::json& wanted : golden["conversations"]) {
      Conversation conversation = conversation_of(wanted["messages"]);
      std::string text;
      std::string answers;
      for (const ChatPiece& piece : chat.render(conversation)) {
        text += piece.text;
        if (piece.predicted) answers += piece.text;
      }
      CHECK(text == wanted["text"]);
      const std::string answer = conversation.back().text;
      CHECK(answers.find(answer.substr(answer.find_first_not_of(' '), 3)) != std::string::npos);
      conversation.pop_back();
      CHECK(chat.prompt(conversation) == wanted["prompt"]);
    }
  }
}

TEST_CASE(
    "LLaMA-3.1's template tells the date that is given; Mistral's later ones put the system message last") {
  const ChatTemplate dated("llama3.1", {"<s>", "</s>", "01 Jan 2025"});
  check_says(dated.prompt({{Role::user, "Q"}}), "\nToday Date: 01 Jan 2025\n\n<|eot_id|>");
  const Conversation two{{Role::system, "S"}, {Role::user, "Q"}, {Role::assistant, "A"}, {Role::user, "R"}};
  CHECK(ChatTemplate("mistral-v3", {"<s>", "</s>"}).prompt(two) ==
        "<s>[INST] Q[/INST] A</s>[INST] S\n\nR[/INST]");
  CHECK(ChatTemplate("mistral-nemo", {"<s>", "</s>"}).prompt(two) ==
        "<s>[INST]Q[/INST]A</s>[INST]S\n\nR[/INST]");
  for (const char* name : {"llama3.1", "mistral-v3", "plain"})
    CHECK_FALSE(ChatTemplate(name, {"<s>", "</s>"}).prompt({}).empty());
}

TEST_CASE("a template that is not known is refused with what to give") {
  const auto why = [](std::string_view text) {
    return error_of([&] { (void)ChatTemplate::recognise("m.gguf", text, {}); });
  };
  check_says(why(""), "m.gguf: the model's chat template is missing");
  check_says(why("{{ messages }}"),
             "not known. Give the one that it is closest to, --chat-template chatml|smollm2");
  check_says(why("<|im_start|><|im_end|> {% if enable_thinking %}"), "it has \"enable_thinking\"");
  check_says(why("<|start_header_id|><|eot_id|> Cutting Knowledge Date"), "LLaMA-3.1's");
  check_says(why("[INST] [AVAILABLE_TOOLS] {{ message }}"), "neither v0.3's nor Nemo's");
  check_says(error_of([] { ChatTemplate("gpt", {}); }),
             "--chat-template is 'gpt', expected one of: chatml, smollm2");
  const ChatTemplate mistral("mistral", {"<s>", "</s>"});
  check_says(error_of([&] {
               (void)mistral.render({{Role::system, "S"}, {Role::user, "Q"}, {Role::assistant, "A"}});
             }),
             "no place for a system message");
}

TEST_CASE("answers and the tokens that end them are predicted, and nothing else") {
  const ChatTemplate chat("chatml", {});
  const std::vector<Conversation> conversations{
      {{Role::user, "Q"}, {Role::assistant, "AB"}, {Role::user, "R"}, {Role::assistant, "C"}}};
  const CausalDataset data("data", conversations, chat, letters, 200);
  REQUIRE(data.size() == 1);
  const std::vector<std::int32_t> all = letters(
      "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nAB<|im_end|>\n<|im_start|>user\nR<|im_end|>\n"
      "<|im_start|>assistant\nC<|im_end|>");
  const std::int32_t end = 1000 + 'i';
  std::string predicted;
  REQUIRE(data.length(0) == static_cast<index_t>(all.size()) - 1);
  for (std::size_t r = 0; r + 1 < all.size(); ++r) {
    CHECK(data.ids(0)[r] == all[r]);
    if (const std::int32_t target = data.targets(0)[r]; target >= 0) {
      CHECK(target == all[r + 1]);
      predicted += target == end ? '.' : static_cast<char>(target);
    }
  }
  CHECK(predicted == "AB.C.");
  CHECK(data.counted(0) == 5);
  Batch batch;
  data.add_to(batch, 0);
  CHECK(batch.targets.size() == batch.ids.size());
}

TEST_CASE("long examples are cut, those without a place for their answer left out, both counted") {
  const ChatTemplate chat("plain", {});
  const std::vector<Conversation> conversations{pair("Q", "ABCDEF"), pair("0123456789", "A"), pair("Q", "A")};
  const CausalDataset data("data", conversations, chat, letters, 4);
  CHECK(data.size() == 2);
  CHECK(data.cut() == 1);
  CHECK(data.left_out() == 1);
  CHECK(data.longest() == 4);
  CHECK(data.longest_uncut() == 13);
  // "Q\nABCDEF": rows Q, \n, A, B of which \n, A and B predict A, B and C.
  CHECK(data.counted(0) == 3);
  CHECK(data.length(1) == 2);
}

TEST_CASE("what is held out depends on the split's seed alone") {
  std::vector<Conversation> all;
  for (int i = 0; i < 40; ++i)
    all.push_back(pair(std::to_string(i), "A"));
  std::vector<Conversation> a = all;
  std::vector<Conversation> b = all;
  std::vector<Conversation> c = all;
  const auto held_a = hold_out(a, 0.25, 1);
  const auto held_b = hold_out(b, 0.25, 1);
  const auto held_c = hold_out(c, 0.25, 2);
  CHECK(held_a.size() == 10);
  CHECK(a.size() == 30);
  CHECK(held_a == held_b);
  CHECK(a == b);
  CHECK_FALSE(held_a == held_c);
  for (const Conversation& held : held_a)
    CHECK(std::find(a.begin(), a.end(), held) == a.end());
  check_says(error_of([&] { (void)hold_out(c, 0.001, 1); }), "leaves 30 to train on and 0 to evaluate on");
  check_says(error_of([&] { (void)hold_out(c, 0.001, 1); }),
             "give a larger share, or a file to evaluate on, --validation FILE");
  check_says(error_of([&] { (void)hold_out(c, 0.999, 1); }), "give a smaller share");
}
