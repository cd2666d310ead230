#pragma once

#include <iostream>
#include <string>

#include "base/error.h"
#include "base/json.h"

/// Answers each line of standard input with a line of JSON; an Error becomes {"error": text}.
template <class Answer>
void answer_lines(const Answer& answer) {
  for (std::string line; std::getline(std::cin, line);) {
    sala::OrderedJson reply;
    try {
      reply = answer(line);
    } catch (const sala::Error& e) {
      reply = {{"error", e.what()}};
    }
    std::cout << reply.dump() << '\n' << std::flush;
  }
}
