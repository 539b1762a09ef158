"""What the plots of tools/ say of themselves: title, model, data, seeds, and the units of their axes."""

import io
import unittest
import unittest.mock

from support import needs_matplotlib

import glue_plots

GLUE = {
    "options": {"task": "cola", "seed": 42},
    "model": {"directory": "/models/minilm", "layers": 6, "hidden": 384},
    "data": {"task": "cola", "source": "option", "train": {"examples": 8551}, "dev": {"examples": 1043}},
    "steps": [{"step": step, "mean_loss": 1 / step} for step in range(1, 5)],
    "evaluations": [{"step": step, "loss": 0.5, "metrics": {"matthews_correlation": step / 10}} for step in (2, 4)],
    "best": {"step": 4, "metric": "matthews_correlation", "value": 0.4},
}
CAUSAL = {
    "options": {"seed": 7},
    "model": {"path": "/models/SmolLM2.gguf", "layers": 30, "hidden": 576},
    "data": {"train": {"file": "/data/train.jsonl", "examples": 400}},
    "steps": [{"step": 1, "mean_loss": 2.0}, {"step": 2, "mean_loss": 1.0}],
    "evaluations": [{"step": 0, "loss": 2.0, "metrics": {}}, {"step": 2, "loss": 1.0, "metrics": {}}],
    "best": {"step": 2, "metric": "perplexity", "value": 2.7},
}


class Names(unittest.TestCase):
    def test_model(self):
        self.assertEqual(glue_plots.model_of(GLUE), "minilm (6 layers of width 384)")
        self.assertEqual(glue_plots.model_of(CAUSAL), "SmolLM2.gguf (30 layers of width 576)")
        self.assertEqual(glue_plots.model_of({"options": {"model": "/runs/best/model"}}), "best/model")
        self.assertEqual(glue_plots.model_of({}), "a model")

    def test_data(self):
        self.assertEqual(glue_plots.data_of(GLUE), "cola (8551 training examples)")
        self.assertEqual(glue_plots.data_of(CAUSAL), "train.jsonl (400 training examples)")
        self.assertEqual(glue_plots.data_of(CAUSAL, "word problems"), "word problems (400 training examples)")
        builtin = {"data": {**GLUE["data"], "source": "builtin"}}
        self.assertEqual(glue_plots.data_of(builtin), "the built-in sentences (8551 training examples)")
        self.assertEqual(glue_plots.data_of({}), "data")

    def test_units(self):
        self.assertEqual(glue_plots.loss_unit(GLUE), "nats an example")
        self.assertEqual(glue_plots.loss_unit(CAUSAL), "nats a token")
        self.assertEqual(glue_plots.loss_unit({"options": {"task": "stsb"}}), "squared error")


@needs_matplotlib
class Titles(unittest.TestCase):
    def figure_of(self, draw, *arguments):
        """The figure that a function of glue_plots saves."""
        figures = []
        with unittest.mock.patch.object(glue_plots.pyplot(), "close", figures.append):
            draw(*arguments)
        figures[0].canvas.draw()
        return figures[0]

    def labels(self, figure):
        return figure.get_suptitle(), [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes]

    def test_curves(self):
        title, labels = self.labels(self.figure_of(glue_plots.draw_curves, {"ft": [GLUE]}, "Matthews correlation", io.BytesIO()))
        self.assertEqual(
            " ".join(title.split()),
            "Training loss and Matthews correlation: minilm (6 layers of width 384) on cola (8551 training examples) seed 42",
        )
        self.assertEqual(labels[0], ("optimizer step", "training loss, nats an example; exponential mean"))
        self.assertEqual(labels[1], ("optimizer step", "Matthews correlation on dev"))

    def test_curves_of_several_seeds(self):
        other = {**GLUE, "options": {**GLUE["options"], "seed": 3}}
        runs = {"ft": [GLUE, other], "none finished": []}
        title, _ = self.labels(self.figure_of(glue_plots.draw_curves, runs, "accuracy", io.BytesIO()))
        self.assertTrue(title.endswith("\nseeds 3, 42; lines: mean over seeds, bands: least to largest"), title)

    def test_curves_of_a_language_model(self):
        arguments = {"sparse": [CAUSAL]}, "loss of held-out answers", io.BytesIO(), glue_plots.metric_curve, "word problems"
        title, labels = self.labels(self.figure_of(glue_plots.draw_curves, *arguments))
        self.assertIn("SmolLM2.gguf (30 layers of width 576) on word problems", " ".join(title.split()))
        self.assertEqual(labels[0][1], "training loss, nats a token; exponential mean")

    def test_costs_and_sparsity(self):
        subject, metric = "minilm on cola", "Matthews correlation"
        points = {"ft": (50.0, 1.0, 400.0, 3.0, 0.1)}
        title, labels = self.labels(self.figure_of(glue_plots.draw_costs, points, io.BytesIO(), subject, metric, [1, 2]))
        self.assertEqual(
            title, "Quality against memory and speed: minilm on cola\nseeds 1, 2; bars: standard deviation over seeds"
        )
        self.assertEqual(labels[0][1], "Matthews correlation on dev, x 100")
        self.assertEqual([x for x, _ in labels], ["peak memory of training, MiB (less is better)", "steps/s without evaluation (more is better)"])
        lines = {"sparse": [(0.1, 40.0, 1.0), (1.0, 45.0, 1.0)]}
        figure = self.figure_of(glue_plots.draw_sparsity, lines, {"ft": 50.0}, io.BytesIO(), subject, metric, [1])
        title, labels = self.labels(figure)
        self.assertEqual(title, "Quality against entries kept: minilm on cola\nseed 1")
        self.assertEqual(labels, [("entries that a step keeps, % of a matrix", "Matthews correlation on dev, x 100")])

    def test_a_name_is_shown_as_it_is(self):
        """A pair of dollar signs would be a formula; \\x would end it in an error. Bytes that are no text have no letter."""
        log = {**GLUE, "model": {"directory": "/models/a $\\x$ b\udcff"}}
        figure = self.figure_of(glue_plots.draw_curves, {"ft": [log]}, "accuracy", io.BytesIO())
        self.assertIn("a \\$\\x\\$ b?", figure.get_suptitle())

    def test_titles_do_not_run_into_axes(self):
        log = {**GLUE, "model": {"directory": "/models/" + "a long name of a model " * 6, "layers": 6, "hidden": 384}}
        figure = self.figure_of(glue_plots.draw_curves, {"ft": [log, log]}, "Matthews correlation", io.BytesIO())
        title = figure._suptitle.get_window_extent()
        for axes in figure.axes:
            self.assertFalse(title.overlaps(axes.get_window_extent()))


if __name__ == "__main__":
    unittest.main()
