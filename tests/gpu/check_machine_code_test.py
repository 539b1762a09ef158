#!/usr/bin/env python3
"""check_machine_code.py on what a program that stands for cuobjdump says: each kind of problem is found."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).with_name("check_machine_code.py")
# block_kernel<Sums, 3>, in namespaces as the library's.
SUMS = "_ZN10sparsegrad4v0_18portable12block_kernelINS1_4SumsELi3EEEvT_"
TILES = "_ZN10sparsegrad4v0_18portable12block_kernelINS1_5TilesELi1EEEvT_"
OTHER = "_ZN3cub6kernelEv"


def text_of(registers=40, stack=0, shared=1024, barriers=2, products=4, architecture=80, first="LDG.E R0, [R4] ;"):
    usage = "".join(
        f" Function {name}:\n  REG:{r} STACK:{s} SHARED:{m} LOCAL:0 CONSTANT[0]:576 TEXTURE:0\n"
        for name, r, s, m in ((SUMS, registers, stack, shared), (TILES, 100, 0, 2048), (OTHER, 250, 64, 0)))
    code = f"\tcode for sm_{architecture}\n\t\tFunction : {SUMS}\n  /*0*/  {first}\n  /*0*/  ACQBULK ;\n" + "  /*0*/  BAR.SYNC.DEFER_BLOCKING 0x0 ;\n" * barriers
    code += f"\t\tFunction : {TILES}\n" + "  /*0*/  HMMA.16816.F32.BF16 R4, R8, R12, R4 ;\n" * products
    return usage, code + "  /*0*/  BAR.SYNC.DEFER_BLOCKING 0x0 ;\n"


class CheckMachineCode(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = pathlib.Path(self.folder.name)
        for name in ("cuobjdump", "nvdisasm"):
            tool = self.path / name
            tool.write_text(f'#!/bin/sh\ncat "{self.path}/text$1"\n')
            tool.chmod(0o755)
        self.table = self.path / "table.tsv"
        self.run_with(text_of(), "--write")

    def run_with(self, text, *options):
        for option, part in zip(("-res-usage", "-sass"), text):
            (self.path / ("text" + option)).write_text(part)
        environment = {**os.environ, "PATH": f"{self.path}:{os.environ['PATH']}"}
        return subprocess.run([sys.executable, SCRIPT, *options, self.table, "program"], env=environment,
                              capture_output=True, text=True)

    def test_the_table_holds_block_kernels_alone(self):
        self.assertEqual(self.table.read_text().splitlines(),
                         ["kernel\tbarriers\thmma\tregisters\tlocal\tshared", "Sums\t2\t0\t40\t0\t1024",
                          "Tiles\t1\t4\t100\t0\t2048"])
        result = self.run_with(text_of(registers=48))
        self.assertEqual((result.returncode, result.stdout), (0, "2 kernels, 0 problems\n"))

    def test_each_kind_of_problem_is_found(self):
        for change, problem in (
                ({"barriers": 1}, "Sums: 1 barriers, expected 2 of 3 phases"),
                ({"products": 0}, "Tiles: no tensor-core instruction, expected some 4"),
                ({"registers": 49}, "Sums: 49 registers, expected at most 48"),
                ({"stack": 8}, "Sums: 8 bytes local, expected at most 0"),
                ({"architecture": 90}, "Sums: touches memory before it waits for the kernel before it"),
                ({"shared": 1032}, "Sums: 1032 bytes shared, expected at most 1024")):
            result = self.run_with(text_of(**change))
            self.assertEqual((result.returncode, result.stderr), (1, problem + "\n"))

    def test_a_kernel_that_waits_first(self):
        self.assertEqual(self.run_with(text_of(architecture=90, first="S2R R0, SR_TID.X ;")).returncode, 0)

    def test_kernels_that_only_one_side_knows(self):
        rows = self.table.read_text().splitlines()
        self.table.write_text("\n".join(rows[:2]) + "\n")
        self.assertIn("Tiles: not in the table", self.run_with(text_of()).stderr)
        self.table.write_text("\n".join([*rows, "Gone\t0\t0\t1\t0\t0"]) + "\n")
        self.assertIn("Gone: in the table, but in none of the files", self.run_with(text_of()).stderr)

    def test_a_file_without_kernels(self):
        result = self.run_with(("", ""))
        self.assertEqual((result.returncode, result.stderr), (1, "no block kernel in program\n"))


if __name__ == "__main__":
    unittest.main()
