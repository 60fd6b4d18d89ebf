// Names in /dev/shm, and Python programs that use them.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

namespace brood::test {

// One that nobody else has, of this test program.
std::string unique_name();
bool is_unique(const std::string& name);  // made by unique_name() in this program or its children
bool is_automatic(const std::string& name);

std::string shm_path(const std::string& name);
bool has_name(const std::string& name);
// Whether it is so within the time that DESIGN promises.
bool is_gone_soon(const std::string& name);
// Those of this program, and automatic ones: others may use the folder at the same time.
std::set<std::string> names_in_shm();
// How many blocks of 512 bytes a file has.
long blocks_of(const std::string& path);

// The code of the SystemError that `action` throws; 0 if it throws none.
int error_number_of(const std::function<void()>& action);

// Runs a program with the Python that the build found.
struct PythonRun {
  int status = -1;  // as wait() tells it
  std::string out;
};
PythonRun run_python(const std::string& program, const std::vector<std::string>& arguments);

}  // namespace brood::test
