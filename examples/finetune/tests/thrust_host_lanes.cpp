// The attention of decoders and encoders with every thread of a block for itself, against the CPU's layers: which lane
// holds what, what is copied when, and who waits for whom.
#define SPARSEGRAD_EMULATED_LANES
#include "support/lane_emulation.hpp"

#include <sparsegrad/backend/thrust_host.cuh>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <vector>

#include "models/host_backend.hpp"

#include "models/layers/device/decoder_ops.cuh"
#include "models/layers/device/layer_ops.cuh"
#include "models/layers/host/decoder_ops.hpp"
#include "models/layers/host/layer_ops.hpp"
#include "support/device_memory.hpp"

namespace sparsegrad::finetune::test {
namespace {

struct LaneSystem : backend::portable::HostSystem {
  template <class K>
  static void launch(Context&, index_t blocks, const K& kernel) {
    device::emulated::run_blocks(blocks, kernel);
  }
};
struct Lanes : backend::ThrustHost {
  using System = LaneSystem;
};
using LaneOps = DecoderOps<Lanes>;
using HostOps = DecoderOps<HostBackend>;

/// Numbers in T and in float, which are equal to begin with.
template <class T>
struct Numbers {
  Numbers(Lanes::Context& ctx, index_t n_rows, index_t n_cols, std::mt19937_64& random)
      : rows(n_rows),
        cols(n_cols),
        device(ctx, n_rows * n_cols),
        host(sparsegrad::test::normal<float>(random, n_rows * n_cols)) {
    for (index_t i = 0; i < n_rows * n_cols; ++i) {
      device.data()[i] = static_cast<T>(host[static_cast<std::size_t>(i)]);
      host[static_cast<std::size_t>(i)] = static_cast<float>(device.data()[i]);
    }
  }
  MatrixView<T> on_device() { return device.matrix(rows, cols); }
  MatrixView<float> on_host() { return MatrixView<float>(host.data(), rows, cols); }
  /// How far off the device's numbers are, as a part of the largest.
  double difference() const {
    double worst = 0;
    double most = 0;
    for (std::size_t i = 0; i < host.size(); ++i) {
      const double off = std::abs(static_cast<double>(host[i]) - static_cast<double>(device.data()[i]));
      worst = off > worst || off != off ? off : worst;
      most = std::max(most, std::abs(static_cast<double>(host[i])));
    }
    return worst / most;
  }

  index_t rows, cols;
  Buffer<T, Lanes> device;
  std::vector<float> host;
};

/// The largest difference so far, as a multiple of what rounding to T may do.
template <class T>
struct Worst {
  double part = 0;

  template <class U>
  void take(const Numbers<U>& numbers, double roundings) {
    const double slack = roundings * (is_low_precision<T> ? low_precision_epsilon<T> : 2e-6);
    const double own = numbers.difference() / slack;
    part = own > part || own != own ? own : part;
  }
};

/// The largest difference from the CPU's attention in float, as a multiple of what rounding may do.
template <class T>
double attention_difference(const CausalShape& shape, const std::vector<index_t>& lengths) {
  Worst<T> worst;
  Lanes::Context ctx;
  HostBackend::Context cpu(1);
  std::mt19937_64 random(7);
  Batch batch;
  for (const index_t length : lengths)
    batch.add_sequence(std::vector<std::int32_t>(static_cast<std::size_t>(length), 1));
  PlacedBatch<Lanes> placed;
  placed.place(ctx, batch, false);
  PlacedBatch<HostBackend> host_placed;
  host_placed.place(cpu, batch, false);
  const index_t tokens = batch.tokens();

  Numbers<T> qkv(ctx, tokens, shape.cols(), random);
  Numbers<T> out(ctx, tokens, shape.q_cols(), random);
  Numbers<compute_t<T>> sums(ctx, shape.heads, tokens, random);
  std::vector<float> work(
      static_cast<std::size_t>(HostOps::attention_work<float>(cpu, shape, tokens, batch.longest())));
  HostOps::attention_forward<float>(cpu, shape, host_placed, qkv.on_host(), out.on_host(), sums.host.data(),
                                    work.data());
  LaneOps::attention_forward<T>(ctx, shape, placed, qkv.on_device(), out.on_device(), sums.device.data(),
                                nullptr);
  worst.take(out, 6);
  worst.take(sums, 6);

  Numbers<T> d_out(ctx, tokens, shape.q_cols(), random);
  Numbers<T> d_qkv(ctx, tokens, shape.cols(), random);
  Buffer<compute_t<T>, Lanes> delta(ctx, LaneOps::attention_work<T>(ctx, shape, tokens, batch.longest()));
  HostOps::attention_backward<float>(cpu, shape, host_placed, qkv.on_host(), out.on_host(), sums.host.data(),
                                     d_out.on_host(), d_qkv.on_host(), work.data());
  LaneOps::attention_backward<T>(ctx, shape, placed, qkv.on_device(), out.on_device(), sums.device.data(),
                                 d_out.on_device(), d_qkv.on_device(), delta.data());
  worst.take(d_qkv, 12);

  // The last rows of each sequence as ones that follow the others, whose keys are elsewhere.
  std::vector<index_t> past;
  std::vector<MatrixView<T>> keys, values;
  std::vector<MatrixView<float>> host_keys, host_values;
  Batch following;
  for (std::size_t s = 0; s < lengths.size(); ++s) {
    const index_t last = std::min<index_t>(lengths[s], 1 + static_cast<index_t>(s) % 3);
    past.push_back(lengths[s] - last);
    following.add_sequence(std::vector<std::int32_t>(static_cast<std::size_t>(last), 1));
    const index_t first = batch.offsets[s];
    keys.push_back(qkv.on_device().block(first, shape.q_cols(), lengths[s], shape.kv_cols()));
    values.push_back(
        qkv.on_device().block(first, shape.q_cols() + shape.kv_cols(), lengths[s], shape.kv_cols()));
    host_keys.push_back(qkv.on_host().block(first, shape.q_cols(), lengths[s], shape.kv_cols()));
    host_values.push_back(
        qkv.on_host().block(first, shape.q_cols() + shape.kv_cols(), lengths[s], shape.kv_cols()));
  }
  Numbers<T> next(ctx, following.tokens(), shape.cols(), random);
  Numbers<T> answer(ctx, following.tokens(), shape.q_cols(), random);
  placed.place(ctx, following, false);
  host_placed.place(cpu, following, false);
  HostOps::attention_after<float>(cpu, shape, host_placed, past, host_keys, host_values, batch.longest(),
                                  next.on_host(), answer.on_host(), work.data());
  LaneOps::attention_after<T>(ctx, shape, placed, past, keys, values, batch.longest(), next.on_device(),
                              answer.on_device(), nullptr);
  worst.take(answer, 6);
  return worst.part;
}

/// The same of the encoder's attention, forward and backward; `padded`: sequences are filled up to the longest.
template <class T>
double encoder_difference(const AttentionShape& shape, const std::vector<index_t>& lengths,
                          double dropout_rate, bool padded) {
  Worst<T> worst;
  Lanes::Context ctx;
  HostBackend::Context cpu(1);
  std::mt19937_64 random(11);
  Batch batch;
  for (const index_t length : lengths)
    batch.add(std::vector<std::int32_t>(static_cast<std::size_t>(length), 1), {}, 0,
              padded ? *std::max_element(lengths.begin(), lengths.end()) : 0);
  PlacedBatch<Lanes> placed;
  placed.place(ctx, batch, false);
  PlacedBatch<HostBackend> host_placed;
  host_placed.place(cpu, batch, false);
  const index_t tokens = batch.tokens();
  const Dropout<float> dropout(dropout_rate, 5);

  Numbers<T> qkv(ctx, tokens, 3 * shape.hidden(), random);
  Numbers<float> bias(ctx, 1, 3 * shape.hidden(), random);
  for (index_t j = shape.hidden(); j < 2 * shape.hidden(); ++j)  // of the keys, which may be left out
    bias.on_host()(0, j) = bias.device.data()[j] = 0;
  Numbers<T> out(ctx, tokens, shape.hidden(), random);
  Numbers<float> sums(ctx, shape.heads, tokens, random);
  std::vector<float> work(static_cast<std::size_t>(
      LayerOps<HostBackend>::attention_work<float>(cpu, shape, tokens, batch.longest())));
  LayerOps<HostBackend>::attention_forward<float>(cpu, shape, host_placed, bias.host.data(), dropout,
                                                  qkv.on_host(), out.on_host(), sums.host.data(),
                                                  work.data());
  LayerOps<Lanes>::attention_forward<T>(ctx, shape, placed, bias.device.data(), dropout, qkv.on_device(),
                                        out.on_device(), sums.device.data(), nullptr);
  const auto multiply_queries =
      [&](float factor) {  // of the CPU, which scales them where the GPU scales scores
        for (index_t i = 0; i < tokens; ++i)
          for (index_t j = 0; j < shape.hidden(); ++j)
            qkv.on_host()(i, j) *= factor;
      };
  multiply_queries(1 / shape.scale<float>());
  worst.take(qkv, 2);
  multiply_queries(shape.scale<float>());
  worst.take(out, 8);
  worst.take(sums, 8);

  Numbers<T> d_out(ctx, tokens, shape.hidden(), random);
  Numbers<T> d_qkv(ctx, tokens, 3 * shape.hidden(), random);
  Buffer<float, Lanes> delta(ctx, LayerOps<Lanes>::attention_work<T>(ctx, shape, tokens, batch.longest()));
  LayerOps<HostBackend>::attention_backward<float>(cpu, shape, host_placed, dropout, qkv.on_host(),
                                                   out.on_host(), sums.host.data(), d_out.on_host(),
                                                   d_qkv.on_host(), work.data());
  LayerOps<Lanes>::attention_backward<T>(ctx, shape, placed, dropout, qkv.on_device(), out.on_device(),
                                         sums.device.data(), d_out.on_device(), d_qkv.on_device(),
                                         delta.data());
  worst.take(d_qkv, 16);
  return worst.part;
}

/// Leaves out the waits that `whole` meets, at least so many, one by one; returns those that it does not miss.
template <class F>
std::set<device::emulated::Site> waits_not_missed(std::size_t least, const F& whole) {
  device::emulated::Sites& sites = device::emulated::Sites::all();
  sites.seen.clear();
  REQUIRE(whole() < 1);
  const std::set<device::emulated::Site> seen = sites.seen;
  CHECK(seen.size() >= least);
  std::set<device::emulated::Site> not_missed;
  for (const device::emulated::Site& site : seen) {
    sites.left_out = site;
    if (whole() < 1) {
      not_missed.insert(site);
      MESSAGE("not missed: " << site.file << ":" << site.line << " in " << site.kernel);
    }
  }
  sites.left_out = {};
  return not_missed;
}

}  // namespace

TEST_CASE_TEMPLATE("lanes: attention is the CPU's", T, float, bfloat16, float16) {
  CHECK(attention_difference<T>({2, 2, 64}, {70, 1, 33}) < 1);
  CHECK(attention_difference<T>({6, 2, 64}, {40, 65}) < 1);
  CHECK(attention_difference<T>({3, 1, 48}, {50}) < 1);
  CHECK(attention_difference<T>({4, 2, 10}, {37, 2}) < 1);  // no packs
  CHECK(attention_difference<T>({4, 2, 128}, {40, 17}) < 1);
  CHECK(attention_difference<T>({2, 1, 80}, {35}) < 1);
}

TEST_CASE_TEMPLATE("lanes: the encoder's attention is the CPU's", T, float, bfloat16, float16) {
  CHECK(encoder_difference<T>({2, 64}, {40, 17, 1, 2}, 0.1, true) < 1);
  CHECK(encoder_difference<T>({1, 64}, {63, 64, 65, 33}, 0.3, false) < 1);
  CHECK(encoder_difference<T>({3, 32}, {70, 5}, 0.1, true) < 1);  // a block of keys that are padding
  CHECK(encoder_difference<T>({1, 40}, {35, 3}, 0, true) < 1);
  CHECK(encoder_difference<T>({2, 10}, {20}, 0.1, false) < 1);  // no packs
  CHECK(encoder_difference<T>({2, 80}, {49, 16}, 0.1, true) < 1);
  CHECK(encoder_difference<T>({1, 96}, {31, 48}, 0.1, false) < 1);
  CHECK(encoder_difference<T>({1, 128}, {37}, 0, false) < 1);
}

TEST_CASE("lanes: the encoder's attention takes more than 512 tokens") {
  CHECK(encoder_difference<bfloat16>({1, 64}, {515}, 0.1, false) < 1);
}

TEST_CASE("lanes: every wait is needed") {
  // In 16 bits four for the panels of a kernel and one to write its result; in float three for the panels, which have one
  // buffer, and one where factors are exchanged. Where there are two results one more, and in float two.
  constexpr std::size_t narrow_waits = 5 + 5 + 6;
  constexpr std::size_t float_waits = 5 + 5 + 7;
  const std::set<device::emulated::Site> none;
  CHECK(waits_not_missed(narrow_waits, [] {
          return attention_difference<bfloat16>({2, 1, 64}, {96});
        }) == none);
  CHECK(waits_not_missed(float_waits, [] { return attention_difference<float>({2, 1, 64}, {96}); }) == none);
  CHECK(waits_not_missed(narrow_waits, [] {
          return encoder_difference<bfloat16>({1, 64}, {70}, 0.1, false);
        }) == none);
  CHECK(waits_not_missed(float_waits, [] {
          return encoder_difference<float>({1, 64}, {70}, 0.1, false);
        }) == none);
}

}  // namespace sparsegrad::finetune::test
