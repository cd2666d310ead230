#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace sala {

/// A request as it came; everything in it is somebody else's bytes.
struct HttpRequest {
  std::string method, path;                    ///< the path without its query
  std::string id;                              ///< what the path has where its route has {id}
  std::map<std::string, std::string> headers;  ///< names in lower case
  std::string body;

  /// A header's value, or nothing.
  std::string header(const std::string& name) const {
    const auto at = headers.find(name);
    return at == headers.end() ? std::string() : at->second;
  }
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

/// The answer to one request: either respond(), or begin_stream(), any number of send() and end().
/// Every method may be called from any thread; what comes too late is ignored.
class Exchange {
 public:
  virtual ~Exchange() = default;
  /// A whole answer.
  virtual void respond(int status, std::string type, std::string body,
                       HttpHeaders headers = {}) = 0;
  /// An answer that grows: server-sent events. While nobody sends, a comment goes out every second.
  virtual void begin_stream(HttpHeaders headers = {}) = 0;
  virtual void send(std::string piece) = 0;
  virtual void end() = 0;
  /// Hears, once and on the server's thread, that the client has left before the answer was out.
  virtual void on_gone(std::function<void()> heard) = 0;
  /// Has `work` done on the server's thread, in the order of the calls.
  virtual void post(std::function<void()> work) = 0;
};

/// Answers a request, now or later; called on a thread of its own pool.
using HttpHandler = std::function<void(HttpRequest, std::shared_ptr<Exchange>)>;

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8000;                         ///< 0: any that is free
  int64_t body_limit = int64_t{64} << 20;  ///< four times as much for all requests; more get 503
  int header_limit = 32 << 10;
  int connections = 1024;               ///< at a time; more get 503
  std::chrono::seconds read_time{30};   ///< for a request to arrive once it has begun
  std::chrono::seconds write_time{30};  ///< for a client to take a piece of an answer
  std::chrono::seconds idle_time{75};   ///< between two requests
};

/// HTTP/1.1 on one thread, with a small pool for handlers.
class HttpServer {
 public:
  /// Listens. Throws Error naming the address that cannot be had.
  HttpServer(const HttpOptions& options, HttpHandler handler);
  ~HttpServer();

  int port() const;
  /// Serves until stop(); to be called once.
  void run();
  /// Takes no more connections; those that wait for their next request are closed, the others after
  /// their answer. run() returns then, or `time` later.
  void stop(std::chrono::milliseconds time);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sala
