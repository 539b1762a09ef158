// The library's version. The build reads it from here.
#pragma once

#define SPARSEGRAD_VERSION_MAJOR 0
#define SPARSEGRAD_VERSION_MINOR 1
#define SPARSEGRAD_VERSION_PATCH 0
#define SPARSEGRAD_VERSION "0.1.0"
