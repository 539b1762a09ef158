// The default number of threads: processors by affinity, and quotas of control groups below a made-up root.
#include <doctest/doctest.h>

#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <thread>

#include <sparsegrad/backend/host/available_threads.hpp>
#include <sparsegrad/backend/host/context.hpp>

namespace {

namespace fs = std::filesystem;
namespace host = sparsegrad::backend::host;

constexpr int none = std::numeric_limits<int>::max();

/// A root folder with the files that the kernel would show.
class Root {
 public:
  explicit Root(const std::string& groups)
      : path_(fs::path(SPARSEGRAD_TEST_OUTPUT_DIR) / ("root" + std::to_string(count_++))) {
    fs::remove_all(path_);
    write("proc/self/cgroup", groups);
  }
  Root& write(const std::string& file, const std::string& content) {
    fs::create_directories((path_ / file).parent_path());
    std::ofstream(path_ / file) << content << "\n";
    return *this;
  }
  int quota() const { return host::detail::quota_processors(path_.string()); }
  std::string string() const { return path_.string(); }

 private:
  static inline int count_ = 0;
  fs::path path_;
};

}  // namespace

TEST_CASE("cpu.max of cgroup v2 limits the threads, rounded up") {
  const auto quota = [](const char* text) {
    return Root("0::/").write("sys/fs/cgroup/cpu.max", text).quota();
  };
  CHECK(quota("max 100000") == none);
  CHECK(quota("100000 100000") == 1);
  CHECK(quota("50000 100000") == 1);
  CHECK(quota("150000 100000") == 2);
  CHECK(quota("200000 100000") == 2);
  CHECK(quota("800000 100000") == 8);
  CHECK(quota("9223372036854775807 1") == none);
  // What no kernel writes is no limit.
  for (const char* text : {"", "100000", "100000 0", "0 100000", "-5 100000", "x y", "max"})
    CHECK(quota(text) == none);
  CHECK(Root("0::/").quota() == none);
  CHECK(Root("").quota() == none);
  for (const char* groups : {"0::name", "0::", "nonsense", "::", "1:cpu"})
    CHECK(Root(groups).quota() == none);
}

TEST_CASE("the least quota counts, of the group and of those that it is in") {
  Root root("0::/pods/one/main");
  root.write("sys/fs/cgroup/pods/one/main/cpu.max", "400000 100000");
  CHECK(root.quota() == 4);
  root.write("sys/fs/cgroup/pods/one/cpu.max", "max 100000")
      .write("sys/fs/cgroup/pods/cpu.max", "300000 100000");
  CHECK(root.quota() == 3);
  // In a container the path may be the host's, and the mount shows the container's own group.
  CHECK(Root("0::/of/the/host").write("sys/fs/cgroup/cpu.max", "200000 100000").quota() == 2);
}

TEST_CASE("cpu.cfs_quota_us of cgroup v1 limits the threads") {
  for (const char* folder : {"cpu", "cpu,cpuacct"}) {
    const auto quota = [&](const char* us, const char* path) {
      Root root("9:memory:/other\n4:cpu,cpuacct:/docker/1\n1:name=systemd:/x\n0::/y");
      const std::string at = std::string("sys/fs/cgroup/") + folder + path;
      return root.write(at + "/cpu.cfs_quota_us", us).write(at + "/cpu.cfs_period_us", "50000").quota();
    };
    CHECK(quota("-1", "/docker/1") == none);
    CHECK(quota("75000", "/docker/1") == 2);
    CHECK(quota("50000", "/docker") == 1);
    CHECK(quota("150000", "") == 3);
  }
  // Another controller's group has nothing to say.
  Root root("4:cpuset:/a");
  root.write("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "50000")
      .write("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "50000");
  CHECK(root.quota() == none);
}

TEST_CASE("beside version 1, version 2 is mounted in a folder of its own") {
  CHECK(Root("0::/a").write("sys/fs/cgroup/unified/a/cpu.max", "200000 100000").quota() == 2);
}

TEST_CASE("a context takes the processors that its thread may run on") {
  const Root free("0::/");
  const int before = host::available_threads(free.string());
  CHECK(before >= 1);
  CHECK(host::available_threads(Root("0::/").write("sys/fs/cgroup/cpu.max", "50000 100000").string()) == 1);
  int threads = 0;
  int available = 0;
  // On a thread of its own, as affinity is one's own.
  std::thread([&] {
    cpu_set_t allowed;
    REQUIRE(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    std::size_t first = 0;
    while (!CPU_ISSET(first, &allowed))
      ++first;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
    available = host::available_threads(free.string());
    threads = host::HostContext().threads();
  }).join();
  CHECK(available == 1);
  CHECK(threads == 1);
  CHECK(host::HostContext().threads() == host::available_threads());
}
