// Text from elsewhere, made fit to be shown.
#pragma once

#include <string>
#include <string_view>

namespace brood::start {

// Appends `text` with what is no character in UTF-8, or controls a terminal, as \x1b; tabs stay.
void append_printable(std::string& to, std::string_view text);

}  // namespace brood::start
