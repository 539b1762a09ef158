// The decoder in float on a backend whose memory is not the host's (see decoder_goldens.hpp and device_decoder.hpp).
#pragma once

#include "support/decoder_goldens.hpp"
#include "support/device_decoder.hpp"

namespace sparsegrad::finetune::test {

TEST_CASE("device decoder in float equals the CPU's") {
  check_all_decoders<float, float>(2e-4);
}

TEST_CASE("device decoder: heads that are too wide are refused") {
  DeviceBackend::Context ctx;
  DecoderConfig config = micro_decoder();
  config.head_size = 136;
  DecoderModel<float, DeviceBackend> model(ctx, config);
  CHECK_THROWS_WITH_AS(model.reserve(ctx, 8, 1, 8), doctest::Contains("heads of size 136"), ShapeError);
}

}  // namespace sparsegrad::finetune::test
