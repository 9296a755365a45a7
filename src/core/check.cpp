// SPDX-License-Identifier: Apache-2.0
#include <moptcore/core/check.hpp>

namespace moptcore::inline v0 {

// Out of line, so that each class has one type_info across shared libraries.
Error::~Error() = default;
DTypeError::~DTypeError() = default;
NonFiniteError::~NonFiniteError() = default;
UnsupportedError::~UnsupportedError() = default;
FormatError::~FormatError() = default;

}  // namespace moptcore::inline v0
