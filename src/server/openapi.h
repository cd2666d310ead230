#pragma once

#include <span>

#include "text/chat_template.h"

namespace sala {

/// What the OpenAPI document says of one route. Names of schemas are those in openapi.cc.
struct Operation {
  const char *method, *path;
  const char* summary;
  const char* body = "";        ///< the schema of the request's body; empty: none
  const char* answer = "";      ///< the schema of a 200; empty: text/plain
  bool streams = false;         ///< with "stream": true it is server-sent events
  const char* error = "Error";  ///< the schema of what is not a 200
};

/// The OpenAPI 3.1 document of a server that has these operations.
OrderedJson openapi(std::span<const Operation> operations);

}  // namespace sala
