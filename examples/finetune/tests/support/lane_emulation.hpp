// Runs block kernels on the host with a fiber for each of a block's threads, as a GPU runs them: every lane holds its own
// part of a tile, and what a warp's lanes do together waits for all of them. Where fibers may go on in any order, one warp
// runs as far ahead of the others as it can, another one every time; copies that are started are done at once or when they
// are waited for, as it happens. So a missing wait, as well as a lane that takes another's part, gives wrong numbers.
//
// To be included before any of the kernels, with SPARSEGRAD_EMULATED_LANES defined.
#pragma once

#if !defined(SPARSEGRAD_EMULATED_LANES)
#error "define SPARSEGRAD_EMULATED_LANES before this is included"
#endif

#include <ucontext.h>

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

namespace sparsegrad::finetune::device::emulated {

/// A line of code that waits, and the kernel that waits there.
struct Site {
  std::string file;
  int line = 0;
  std::string kernel;

  friend auto operator<=>(const Site&, const Site&) = default;
};
/// The lines at which threads have waited, and one that does not; an empty file: none.
struct Sites {
  std::set<Site> seen;
  Site left_out;
  std::string kernel;  ///< that runs now

  static Sites& all() {
    static Sites sites;
    return sites;
  }
  /// Whether this one waits.
  bool waits(const char* file, int line) {
    Site site{file, line, kernel};
    const bool wanted = site != left_out;
    seen.insert(std::move(site));
    return wanted;
  }
};

/// The threads of one block.
class Block {
 public:
  static constexpr std::size_t stack_bytes = std::size_t{256} << 10;

  /// Runs run(thread) for all threads. Throws std::logic_error when they wait for each other for ever.
  void run(int threads, std::uint64_t seed, std::function<void(int)> run) {
    run_ = std::move(run);
    random_.seed(seed);
    fibers_.resize(static_cast<std::size_t>(threads));
    warps_.assign(static_cast<std::size_t>((threads + 31) / 32), {});
    block_ = {};
    block_.size = threads;
    for (std::size_t w = 0; w < warps_.size(); ++w)
      warps_[w].size = std::min(32, threads - static_cast<int>(32 * w));
    for (Fiber& fiber : fibers_) {
      if (fiber.stack == nullptr) fiber.stack.reset(new char[stack_bytes]);
      fiber.done = false;
      fiber.groups.clear();
      fiber.groups.emplace_back();
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = stack_bytes;
      fiber.context.uc_link = &scheduler_;
      makecontext(&fiber.context, &Block::enter, 0);
    }
    // Whether a warp got on since it was last found waiting for others.
    std::vector<bool> stuck(warps_.size());
    while (!std::all_of(fibers_.begin(), fibers_.end(), [](const Fiber& f) { return f.done; })) {
      std::vector<std::size_t> order;
      for (std::size_t w = 0; w < warps_.size(); ++w)
        if (!stuck[w]) order.push_back(w);
      if (order.empty()) throw std::logic_error("the threads of a block wait for each other for ever");
      const std::size_t warp = order[random_() % order.size()];
      while (!stuck[warp]) {
        const std::uint64_t before = progress_;
        const std::uint64_t before_block = block_.generation;
        run_warp(warp);
        if (block_.generation != before_block) {
          stuck.assign(stuck.size(), false);
          break;  // all may go on: another one may be first
        }
        stuck[warp] = progress_ == before;
      }
    }
  }

  int thread() const { return current_; }

  void wait_for_block() {
    meet(block_, [] {});
  }
  void wait_for_warp() {
    meet(warp(), [] {});
  }
  void start_copy(const void* from, void* to) {
    if (random_() % 2 == 0) {
      copy(from, to);
    } else {
      fiber().groups.back().push_back({from, to});
    }
  }
  void end_group() { fiber().groups.emplace_back(); }
  void wait_for_copies(int groups) {
    std::deque<Group>& pending = fiber().groups;
    while (pending.size() > static_cast<std::size_t>(groups) + 1) {
      for (const auto& [from, to] : pending.front())
        copy(from, to);
      pending.pop_front();
    }
  }

  /// Calls perform(all lanes' arguments) once all lanes of the warp have brought theirs.
  template <class Arguments, class F>
  void together(Arguments& own, const F& perform) {
    Meeting& m = warp();
    m.arguments[static_cast<std::size_t>(current_ % 32)] = &own;
    meet(m, [&] {
      Arguments* lanes[32];
      for (std::size_t l = 0; l < 32; ++l)
        lanes[l] = static_cast<Arguments*>(m.arguments[l]);
      perform(lanes);
    });
  }

  static Block& current() {
    static Block block;
    return block;
  }

 private:
  using Group = std::vector<std::pair<const void*, void*>>;
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done = false;
    std::deque<Group> groups;  ///< of copies on their way; the last one is open
  };
  struct Meeting {
    int size = 0;
    int arrived = 0;
    std::uint64_t generation = 0;
    void* arguments[32] = {};
  };

  static void enter() {
    Block& block = current();
    const int thread = block.current_;
    block.run_(thread);
    block.fibers_[static_cast<std::size_t>(thread)].done = true;
    ++block.progress_;
  }

  /// Lets each of a warp's fibers go on until it waits.
  void run_warp(std::size_t warp) {
    std::vector<int> order;
    for (int t = static_cast<int>(32 * warp); t < static_cast<int>(32 * warp) + warps_[warp].size; ++t)
      if (!fibers_[static_cast<std::size_t>(t)].done) order.push_back(t);
    std::shuffle(order.begin(), order.end(), random_);
    for (const int t : order) {
      current_ = t;
      swapcontext(&scheduler_, &fibers_[static_cast<std::size_t>(t)].context);
    }
  }
  template <class F>
  void meet(Meeting& m, const F& last) {
    const std::uint64_t generation = m.generation;
    if (++m.arrived == m.size) {
      last();
      m.arrived = 0;
      ++m.generation;
      ++progress_;
      return;
    }
    while (m.generation == generation) {
      const int thread = current_;
      swapcontext(&fibers_[static_cast<std::size_t>(thread)].context, &scheduler_);
    }
  }
  static void copy(const void* from, void* to) {
    if (from == nullptr) {
      std::memset(to, 0, 16);
    } else {
      std::memcpy(to, from, 16);
    }
  }
  Fiber& fiber() { return fibers_[static_cast<std::size_t>(current_)]; }
  Meeting& warp() { return warps_[static_cast<std::size_t>(current_ / 32)]; }

  std::function<void(int)> run_;
  std::mt19937_64 random_;
  std::vector<Fiber> fibers_;
  std::vector<Meeting> warps_;
  Meeting block_;
  ucontext_t scheduler_;
  int current_ = 0;
  std::uint64_t progress_ = 0;
};

inline int thread() {
  return Block::current().thread();
}
inline void wait_for_warp(const char* file, int line) {
  if (Sites::all().waits(file, line)) Block::current().wait_for_warp();
}
inline void wait_for_block(const char* file, int line) {
  if (Sites::all().waits(file, line)) Block::current().wait_for_block();
}
inline void start_copy(const void* from, void* to) {
  Block::current().start_copy(from, to);
}
inline void end_group_of_copies() {
  Block::current().end_group();
}
inline void wait_for_copies(int groups, const char* file, int line) {
  if (Sites::all().waits(file, line)) Block::current().wait_for_copies(groups);
}

template <class V>
V of_other_lane(V x, int mask) {
  struct Exchange {
    V given;
    int mask;
    V taken;
  } own{x, mask, x};
  Block::current().together(own, [](Exchange*(&lanes)[32]) {
    for (int l = 0; l < 32; ++l)
      lanes[l]->taken = lanes[l ^ lanes[l]->mask]->given;
  });
  return own.taken;
}

/// ldmatrix.x4, as the PTX ISA has it.
inline void load_matrices(bool turned, const void* row, std::uint32_t (&to)[4]) {
  struct Load {
    const void* row;
    bool turned;
    std::uint32_t* to;
  } own{row, turned, to};
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0)
    throw std::logic_error("a row is not aligned to 16 bytes");
  Block::current().together(own, [](Load*(&lanes)[32]) {
    for (int m = 0; m < 4; ++m) {
      std::uint16_t matrix[8][8];
      for (int r = 0; r < 8; ++r)
        std::memcpy(matrix[r], lanes[8 * m + r]->row, sizeof matrix[r]);
      for (int l = 0; l < 32; ++l) {
        const int i = l / 4;
        const int j = l % 4 * 2;
        const std::uint32_t low = lanes[l]->turned ? matrix[j][i] : matrix[i][j];
        const std::uint32_t high = lanes[l]->turned ? matrix[j + 1][i] : matrix[i][j + 1];
        lanes[l]->to[m] = low | high << 16;
      }
    }
  });
}

/// mma.m16n8k16. Who holds what is written as CUTLASS publishes it (cute's MMA_Traits of SM80_16x8x16), by the place of
/// value (v0, v1, v2) of lane t0 + 4 t1: m + 16 k = 32 t0 + t1 + 16 v0 + 8 v1 + 128 v2 of A, n + 8 k = 16 t0 + t1 + 8 v0 +
/// 64 v1 of B, m + 16 n = 32 t0 + t1 + 16 v0 + 8 v1 of C.
template <class T>
void multiply_tiles(const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1, float (&c)[4]) {
  struct Operands {
    const std::uint32_t* a;
    std::uint32_t b[2];
    float* c;
  } own{a, {b0, b1}, c};
  Block::current().together(own, [](Operands*(&lanes)[32]) {
    const auto value = [](std::uint32_t word, int v0) {
      return static_cast<float>(T::from_bits(static_cast<std::uint16_t>(word >> (16 * v0))));
    };
    float left[16 * 16];
    float right[8 * 16];
    for (int l = 0; l < 32; ++l) {
      const int t0 = l % 4;
      const int t1 = l / 4;
      for (int v0 = 0; v0 < 2; ++v0) {
        for (int v1 = 0; v1 < 2; ++v1) {
          for (int v2 = 0; v2 < 2; ++v2)
            left[32 * t0 + t1 + 16 * v0 + 8 * v1 + 128 * v2] = value(lanes[l]->a[v1 + 2 * v2], v0);
          right[16 * t0 + t1 + 8 * v0 + 64 * v1] = value(lanes[l]->b[v1], v0);
        }
      }
    }
    for (int l = 0; l < 32; ++l) {
      for (int v0 = 0; v0 < 2; ++v0) {
        for (int v1 = 0; v1 < 2; ++v1) {
          const int place = 32 * (l % 4) + l / 4 + 16 * v0 + 8 * v1;
          const int m = place % 16;
          const int n = place / 16;
          float sum = lanes[l]->c[v0 + 2 * v1];
          for (int k = 0; k < 16; ++k)
            sum += left[m + 16 * k] * right[n + 8 * k];
          lanes[l]->c[v0 + 2 * v1] = sum;
        }
      }
    }
  });
}

/// Runs a kernel's blocks one after the other. Shared memory begins as no number that means anything.
template <class K, class Index>
void run_blocks(Index blocks, const K& kernel) {
  static std::uint64_t seed = 0;
  Sites::all().kernel = typeid(K).name();
  for (Index block = 0; block < blocks; ++block) {
    auto shared = std::make_unique<typename K::Shared>();
    std::memset(static_cast<void*>(shared.get()), 0xa5, sizeof(typename K::Shared));
    Block::current().run(K::threads, ++seed, [&](int thread) {
      const auto phase = [&]<int P>() {
        kernel.template phase<P>(block, thread, *shared);
        if constexpr (P + 1 < K::phases) Block::current().wait_for_block();
      };
      [&]<int... P>(std::integer_sequence<int, P...>) {
        (phase.template operator()<P>(), ...);
      }
      (std::make_integer_sequence<int, K::phases>());
    });
  }
}

}  // namespace sparsegrad::finetune::device::emulated
