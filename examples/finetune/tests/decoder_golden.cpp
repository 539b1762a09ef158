// The native decoder on the CPU against transformers and peft: golden/make_decoder_goldens.py.
#include "models/host_backend.hpp"

using DeviceBackend = sparsegrad::finetune::HostBackend;

#include "support/decoder_goldens.hpp"

namespace sparsegrad::finetune::test {

TEST_CASE("decoder: bfloat16 is transformers' model within its rounding") {
  HostBackend::Context ctx(2);
  for (const char* variant : decoder_variants) {
    CAPTURE(variant);
    const json golden = golden_of(variant);
    const DecoderFolder folder = open_decoder_folder(decoder_goldens() / variant);
    DecoderModel<bfloat16, HostBackend> model(
        ctx, folder.config, {.mlp = {}, .dense = {}, .matrices = all_matrices(folder.config.layers)});
    load_weights(folder, model, 1);
    const double loss = model.forward(ctx, decoder_batch(golden["batches"][0])).loss;
    CHECK(loss == doctest::Approx(golden["loss"].get<double>()).epsilon(0.01));
  }
}

}  // namespace sparsegrad::finetune::test
