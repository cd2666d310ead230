#include "server/errors.h"

namespace sala {

OrderedJson openai_error(int status, const std::string& message, const std::string& param,
                         const std::string& code) {
  const char* type = status == 401 || status == 403   ? "authentication_error"
                     : status == 429 || status == 503 ? "overloaded_error"
                     : status >= 500                  ? "server_error"
                                                      : "invalid_request_error";
  OrderedJson error = {{"message", message}, {"type", type}, {"param", nullptr}, {"code", nullptr}};
  if (!param.empty()) error["param"] = param;
  if (!code.empty()) error["code"] = code;
  return {{"error", error}};
}

OrderedJson anthropic_error(int status, const std::string& message) {
  const char* type = status == 401   ? "authentication_error"
                     : status == 403 ? "permission_error"
                     : status == 404 ? "not_found_error"
                     : status == 413 ? "request_too_large"
                     : status == 429 ? "rate_limit_error"
                     : status == 503 ? "overloaded_error"
                     : status >= 500 ? "api_error"
                                     : "invalid_request_error";
  return {{"type", "error"}, {"error", {{"type", type}, {"message", message}}}};
}

OrderedJson error_of_path(std::string_view path, int status, const std::string& message,
                          const std::string& param, const std::string& code) {
  return path.starts_with("/v1/messages") ? anthropic_error(status, message)
                                          : openai_error(status, message, param, code);
}

std::string text_of(const OrderedJson& json) {
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace sala
