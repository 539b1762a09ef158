#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "data/data_error.hpp"

namespace sparsegrad::finetune {

/// A file's text, which is UTF-8, without its byte order mark and without the line ends at its end. Lines end with LF or
/// CR LF; where there is no LF at all, CR is made LF. Throws DataError where the file cannot be read, is empty, is UTF-16
/// or packed, or has a NUL byte or a byte that is not UTF-8.
std::string read_text(const std::filesystem::path& file);

/// The command that writes a Parquet file as JSON lines; the two files follow.
inline constexpr std::string_view parquet_to_json_lines =
    "python3 -c \"import pandas, sys; pandas.read_parquet(sys.argv[1])"
    ".to_json(sys.argv[2], orient='records', lines=True)\"";

/// A name as it is compared: lower case, without '-', '_', '.' and blanks, which people put or leave out.
std::string plain_name(std::string_view name);

}  // namespace sparsegrad::finetune
