"""tools/check_saved_model.py: the copy under which the program reads a folder, which needs no torch."""

import json
import unittest

import support  # the tools' folder

import check_saved_model


class NamelessCopy(support.FolderCase):
    def test_labels_lose_their_names_and_the_rest_stays(self):
        model = self.folder / "saved"
        model.mkdir()
        config = {"hidden_size": 8, "id2label": {"0": "negative", "1": "positive"}, "label2id": {"negative": 0, "positive": 1}}
        (model / "config.json").write_text(json.dumps(config))
        (model / "model.safetensors").write_bytes(b"weights")
        copy = check_saved_model.nameless_copy(model, 2, self.folder / "copy")
        self.assertEqual((copy / "model.safetensors").read_bytes(), b"weights")
        found = json.loads((copy / "config.json").read_text())
        self.assertEqual(found, {"hidden_size": 8, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}})
        self.assertEqual(json.loads((model / "config.json").read_text()), config)


if __name__ == "__main__":
    unittest.main()
