// What fuzz targets have in common: a bound on memory, files that cost no disk, and mutations of JSON.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <sanitizer/allocator_interface.h>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace sparsegrad::fuzz {

/// Stops the program unless `holds`: libFuzzer then keeps the input.
inline void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "finding: %s\n", what.c_str());
  std::abort();
}

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// Says with FUZZ_VERBOSE in the environment why an input was refused.
inline void refused(const std::exception& error) {
  static const bool verbose = std::getenv("FUZZ_VERBOSE") != nullptr;
  if (verbose) std::fprintf(stderr, "refused: %s\n", error.what());
}

/// While it lives, the memory that was asked for since and is not yet freed must stay below
/// `fixed` + `factor` bytes for each byte of the input.
class MemoryBound {
 public:
  explicit MemoryBound(std::size_t input_bytes, std::size_t factor = 300, std::size_t fixed = 1 << 20) {
    static const int installed = __sanitizer_install_malloc_and_free_hooks(taken, freed);
    require(installed > 0, "the allocation hooks cannot be installed");
    live() = 0;
    limit() = static_cast<std::int64_t>(fixed + factor * input_bytes);
  }
  ~MemoryBound() { limit() = -1; }
  MemoryBound(const MemoryBound&) = delete;
  MemoryBound& operator=(const MemoryBound&) = delete;

 private:
  // Of this thread: libFuzzer's own threads allocate too.
  static std::int64_t& live() {
    thread_local std::int64_t bytes = 0;
    return bytes;
  }
  static std::int64_t& limit() {
    thread_local std::int64_t bytes = -1;
    return bytes;
  }
  static void taken(const volatile void*, std::size_t size) {
    if (limit() < 0) return;
    live() += static_cast<std::int64_t>(size);
    if (live() <= limit()) return;
    const std::int64_t was = std::exchange(limit(), -1);  // what reports it may allocate
    std::fprintf(stderr, "finding: %lld bytes in use, at most %lld are warranted\n",
                 static_cast<long long>(live()), static_cast<long long>(was));
    std::abort();
  }
  static void freed(const volatile void* p) {
    if (limit() < 0 || p == nullptr) return;
    live() -= static_cast<std::int64_t>(__sanitizer_get_allocated_size(const_cast<const void*>(p)));
  }
};

/// A file in memory, which has a path.
class MemoryFile {
 public:
  MemoryFile() : fd_(::memfd_create("fuzz", MFD_CLOEXEC)) { require(fd_ >= 0, "memfd_create"); }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(fd_); }
  void set(std::string_view bytes) {
    const auto written = static_cast<ssize_t>(bytes.size());
    require(::ftruncate(fd_, 0) == 0 && ::pwrite(fd_, bytes.data(), bytes.size(), 0) == written,
            "cannot write a file in memory");
  }

 private:
  int fd_;
};

/// A folder in $TMPDIR, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() : path_((std::filesystem::temp_directory_path() / "fuzz-XXXXXX").string()) {
    require(::mkdtemp(path_.data()) != nullptr, "cannot make a folder in $TMPDIR");
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::filesystem::path path() const { return path_; }
  /// Makes `file` a file of this folder, under a name that may have folders before it.
  void link(const std::filesystem::path& name, const MemoryFile& file) const {
    std::filesystem::create_directories((path() / name).parent_path());
    std::filesystem::create_symlink(file.path(), path() / name);
  }

 private:
  std::string path_;
};

/// A model's folder whose files are sections of an input; a file that is empty is not there.
class Folders {
 public:
  explicit Folders(std::vector<std::string> names) : names_(std::move(names)), files_(names_.size()) {}

  std::filesystem::path with(const std::vector<std::string_view>& contents) {
    std::string which;
    for (std::size_t i = 0; i < names_.size(); ++i) {
      files_[i].set(contents[i]);
      which += contents[i].empty() ? '0' : '1';
    }
    if (made_.insert(which).second) {
      std::filesystem::create_directories(folder_.path() / which);
      for (std::size_t i = 0; i < names_.size(); ++i)
        if (which[i] == '1') folder_.link(std::filesystem::path(which) / names_[i], files_[i]);
    }
    return folder_.path() / which;
  }

 private:
  TemporaryFolder folder_;
  std::vector<std::string> names_;
  std::vector<MemoryFile> files_;
  std::set<std::string> made_;
};

/// Parts of an input that is several files: they are separated by the byte 0x1E, which neither JSON nor
/// text has. Missing ones are empty.
inline std::vector<std::string_view> sections(std::string_view input, std::size_t count) {
  std::vector<std::string_view> parts;
  while (parts.size() + 1 < count) {
    const std::size_t end = std::min(input.find('\x1E'), input.size());
    parts.push_back(input.substr(0, end));
    input.remove_prefix(std::min(end + 1, input.size()));
  }
  parts.push_back(input);
  return parts;
}

/// A mutation of text: libFuzzer's own, seldom a stretch written many times, which finds what grows faster
/// than the input or nests too deep.
std::string mutated_text(std::string text, std::size_t most, unsigned seed);

/// A mutation of a JSON text: of its values, or as of any text.
std::string mutated_json(std::string text, std::size_t most, unsigned seed);

/// For LLVMFuzzerCustomMutator of inputs made of sections: one is mutated by `mutated`.
std::size_t mutate_section(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed,
                           std::string (*mutated)(std::string text, std::size_t most, unsigned seed));

/// The same of the first section, a JSON text.
std::size_t mutate_first_json(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed);

/// For LLVMFuzzerCustomMutator of safetensors files: the header or the data are mutated. The header's length is
/// set right, mostly, and sometimes the offsets and the amount of data are too, so that deeper checks are reached.
std::size_t mutate_safetensors(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned seed);

}  // namespace sparsegrad::fuzz
