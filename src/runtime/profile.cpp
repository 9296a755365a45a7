// SPDX-License-Identifier: Apache-2.0
#include "runtime/profile.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iomanip>
#include <map>
#include <sstream>

#include <moptcore/runtime/session.hpp>

namespace moptcore::inline v0::runtime {

std::string json_text(std::string_view text) {
  std::ostringstream out;
  out << '"';
  for (const char each : text) {
    const auto code = static_cast<unsigned char>(each);
    if (each == '"' || each == '\\') out << '\\' << each;
    else if (code < 0x20 || code >= 0x7f) {
      out << "\\u" << std::hex << std::setw(4) << std::setfill('0') << int{code} << std::dec;
    } else {
      out << each;
    }
  }
  out << '"';
  return out.str();
}

std::string Profile::table() const {
  struct Sum {
    int count = 0;
    double milliseconds = 0;
  };
  std::map<std::string, Sum> sums;
  double total = 0;
  for (const ProfileRow& row : rows) {
    Sum& sum = sums[row.operation];
    sum.count += 1;
    sum.milliseconds += row.milliseconds;
    total += row.milliseconds;
  }
  std::vector<std::pair<std::string, Sum>> order(sums.begin(), sums.end());
  std::ranges::stable_sort(order, [](const auto& a, const auto& b) {
    return a.second.milliseconds > b.second.milliseconds;
  });
  std::ostringstream out;
  const auto line = [&](double milliseconds) -> std::ostream& {
    return out << std::fixed << std::setprecision(3) << std::setw(10) << milliseconds << " ms "
               << std::setprecision(1) << std::setw(5)
               << (total > 0 ? 100 * milliseconds / total : 0.0) << " %  ";
  };
  line(milliseconds) << "a run, of which " << std::setprecision(3) << total << " ms in "
                     << rows.size() << " steps\n\n";
  for (const auto& [operation, sum] : order) {
    line(sum.milliseconds) << std::setw(4) << sum.count << " x " << operation << '\n';
  }
  out << '\n';
  for (const ProfileRow& row : rows) {
    line(row.milliseconds) << row.operation << ' ' << row.shape << "  " << row.implementation
                           << "  " << row.name << '\n';
  }
  return out.str();
}

std::string Profile::chrome_trace() const {
  std::ostringstream out;
  out << "{\"traceEvents\":[";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const ProfileRow& row = rows[i];
    out << (i == 0 ? "" : ",")
        << "\n{\"ph\":\"X\",\"pid\":1,\"tid\":1,\"cat\":" << json_text(row.implementation)
        << ",\"name\":" << json_text(row.operation) << std::fixed << std::setprecision(3)
        << ",\"ts\":" << row.start * 1e3 << ",\"dur\":" << row.last * 1e3
        << ",\"args\":{\"output\":" << json_text(row.name) << ",\"shape\":" << json_text(row.shape)
        << "}}";
  }
  out << "\n],\"displayTimeUnit\":\"ms\"}\n";
  return out.str();
}

}  // namespace moptcore::inline v0::runtime
