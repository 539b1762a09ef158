"""Stands for a package of ConanCenter where there is no network: headers of this machine, from SPARSEGRAD_SYSTEM_INCLUDE.

conan create conan_system --name eigen --version 3.4.0
"""

import os

from conan import ConanFile
from conan.tools.files import copy

PACKAGES = {  # files, and CMake's names of package and target
    "eigen": ("*", "Eigen3", "Eigen3::Eigen"),
    "nlohmann_json": ("nlohmann/*", "nlohmann_json", "nlohmann_json::nlohmann_json"),
}


class SystemHeaders(ConanFile):
    package_type = "header-library"

    def package(self):
        copy(self, PACKAGES[self.name][0], os.environ["SPARSEGRAD_SYSTEM_INCLUDE"], os.path.join(self.package_folder, "include"))

    def package_info(self):
        _, file_name, target_name = PACKAGES[self.name]
        self.cpp_info.set_property("cmake_file_name", file_name)
        self.cpp_info.set_property("cmake_target_name", target_name)
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
