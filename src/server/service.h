#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/open.h"
#include "server/api.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/reply.h"

namespace sala {

struct ServiceOptions {
  std::string name;  ///< of the model, as clients call it
  std::vector<std::string>
      keys;              ///< one of them must come with a request; empty: none is asked for
  bool reuse = true;     ///< of what is remembered of earlier texts
  bool loopback = true;  ///< only this machine is served: other names in Host are somebody's trick
  std::function<void(const std::string&)> log;  ///< hears a line for each request
};

/// The endpoints: HTTP requests in, requests to the engine out, and its events back as JSON.
/// docs/serving.md describes them. Any thread.
class Service {
 public:
  /// The tokenizer is there; all three must outlive the service.
  Service(const ModelFiles& files, Engine& engine, ServiceOptions options);

  /// Answers a request. Throws nothing.
  void handle(HttpRequest request, const std::shared_ptr<Exchange>& exchange);
  /// From now on /ready says no.
  void drain() { draining_ = true; }

 private:
  struct Route {
    const char *method, *path;
    void (Service::*answer)(const HttpRequest&, const std::shared_ptr<Exchange>&);
  };
  static const std::vector<Route>& routes();

  void check_access(const HttpRequest& request) const;
  void check_model(const std::string& name) const;
  std::string caller_of(const HttpRequest& request) const;

  void health(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void ready(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void version(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void models(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void metrics(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void tokenize(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void detokenize(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void tokenizer_info(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void apply_template(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void chat(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void completions(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);

  void respond(const std::shared_ptr<Exchange>& exchange, int status, const OrderedJson& json,
               HttpHeaders headers = {});
  std::string render(const ChatCompletion& chat, const OrderedJson& messages,
                     bool generation) const;
  std::vector<int64_t> marks_of(const ChatCompletion& chat, const std::vector<int>& prompt) const;
  Request request_of(const Completion& completion, std::vector<int> prompt,
                     const std::string& caller) const;
  void submit(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange,
              const std::shared_ptr<Reply>& reply, std::vector<Request> requests);

  const ModelFiles& files_;
  Engine& engine_;
  ServiceOptions options_;
  Metrics metrics_;
  std::atomic<bool> draining_ = false;
  std::atomic<uint64_t> next_ = 1;
  uint64_t process_;  ///< a number of this process, for ids
  int64_t started_;   ///< seconds since 1970
};

}  // namespace sala
