// Files that cannot be opened: whoever reads them tells the system's reason.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include "checkpoints/config_file.hpp"
#include "data/text_file.hpp"
#include "files.hpp"
#include "tokenizers/open_file.hpp"
#include "tokenizers/tokenizer_files.hpp"

using namespace sparsegrad::finetune;
using namespace sparsegrad::finetune::test;
using sparsegrad::finetune::tokenizer_files::read_file;

namespace {

namespace fs = std::filesystem;

struct OwnError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace

TEST_CASE("a file that is there is opened as bytes") {
  const fs::path file = fresh_folder("opened") / "text";
  std::ofstream(file, std::ios::binary) << "a\r\nb";
  std::ifstream stream = open_file<OwnError>(file);
  CHECK(std::string(std::istreambuf_iterator<char>(stream), {}) == "a\r\nb");
  CHECK(open_file<OwnError>(file, std::ios::ate).tellg() == 4);
}

TEST_CASE("what cannot be opened is told with the system's reason, as the caller's own error") {
  const fs::path folder = fresh_folder("refused");
  const fs::path none = folder / "none";
  const std::string missing = none.string() + ": cannot be opened: No such file or directory";
  CHECK_THROWS_WITH_AS(open_file<OwnError>(none), missing.c_str(), OwnError);
  CHECK_THROWS_WITH_AS(read_text(none), missing.c_str(), DataError);
  CHECK_THROWS_WITH_AS(read_json(none), missing.c_str(), ModelError);

  const fs::path pipe = folder / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  check_says(error_of([&] { (void)read_text(pipe); }),
             pipe.string() + ": expected a regular file, found a pipe");

  // Root may read every file; nobody opens a socket as one.
  const fs::path socket = folder / "socket";
  REQUIRE(::mknod(socket.c_str(), S_IFSOCK | 0600, 0) == 0);
  const std::string refused = socket.string() + ": cannot be opened: No such device or address";
  CHECK_THROWS_WITH_AS(read_file(socket), refused.c_str(), TokenizerError);
  CHECK_THROWS_WITH_AS(read_text(socket), refused.c_str(), DataError);
  CHECK_THROWS_WITH_AS(read_json(socket), refused.c_str(), ModelError);
}
