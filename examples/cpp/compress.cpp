// SPDX-License-Identifier: Apache-2.0
#include <iostream>

#include <moptcore/moptcore.hpp>

int main() {
  std::cout << "moptcore " << MOPTCORE_VERSION << ", instruction set " << moptcore::current_isa()
            << ", " << moptcore::num_threads() << " threads\n";
}
