// The encoder and the trainer on the CPU in bfloat16, against float: passes over the models of golden/make_bert_goldens.py,
// the losses of runs, saved states and models.
#include "models/host_backend.hpp"

#include "training/run_device.hpp"

using DeviceBackend = sparsegrad::finetune::HostBackend;

#define SPARSEGRAD_TEST_NARROW_TYPES bfloat16
#include "support/narrow_engine.hpp"
