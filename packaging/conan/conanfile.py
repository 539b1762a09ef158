"""Conan 2 recipe: conan create packaging/conan, in a checkout."""

import os
import re

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load, rmdir

required_conan_version = ">=2.0"


class SparsegradConan(ConanFile):
    name = "sparsegrad"
    description = "Sparse fine-tuning in a Tucker basis, for C++ and C training engines"
    license = "MIT"
    topics = ("machine-learning", "fine-tuning", "sparse")
    settings = "os", "arch", "compiler", "build_type"
    # io: files. c: the C interface. compiled: the float and bfloat16 classes compiled once.
    options = {"io": [True, False], "c": [True, False], "compiled": [True, False]}
    default_options = {"io": True, "c": False, "compiled": False}

    @property
    def _root(self):
        return os.path.join(self.recipe_folder, "..", "..")

    def set_version(self):
        text = load(self, os.path.join(self._root, "include", "sparsegrad", "version.hpp"))
        self.version = re.search(r'#define SPARSEGRAD_VERSION "(.+)"', text)[1]

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "cmake/*", "include/*", "src/*"):
            copy(self, pattern, self._root, self.export_sources_folder)

    def layout(self):
        cmake_layout(self)

    def requirements(self):
        self.requires("eigen/[>=3.4.0 <6]", transitive_headers=True)
        if self.options.io:
            self.requires("nlohmann_json/[>=3.9.0 <4]", transitive_headers=True)

    def validate(self):
        check_min_cppstd(self, 20)
        if self.settings.os == "Windows":
            raise ConanInvalidConfiguration("sparsegrad is not tested on Windows, and its C interface exports nothing there")

    def package_id(self):
        if not (self.info.options.c or self.info.options.compiled):
            self.info.settings.clear()  # headers alone

    def generate(self):
        CMakeDeps(self).generate()
        toolchain = CMakeToolchain(self)
        for part in ("TESTS", "EXAMPLES", "BENCHMARKS"):
            toolchain.cache_variables[f"SPARSEGRAD_BUILD_{part}"] = False
        toolchain.cache_variables["SPARSEGRAD_C"] = bool(self.options.c)
        toolchain.cache_variables["SPARSEGRAD_COMPILED"] = bool(self.options.compiled)
        toolchain.cache_variables["SPARSEGRAD_BACKENDS"] = "eigen"
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        CMake(self).install()
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        rmdir(self, os.path.join(self.package_folder, "share", "licenses"))

    def package_info(self):
        # The package's own CMake files are used: they have the components.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = [os.path.join("share", "cmake", "sparsegrad")]
        self.cpp_info.bindirs = []
        if not (self.options.c or self.options.compiled):
            self.cpp_info.libdirs = []
