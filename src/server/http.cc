// The only file that knows the HTTP library (Boost.Beast).
#include "server/http.h"

#include <algorithm>
#include <atomic>
#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <deque>
#include <optional>
#include <set>

#include "base/error.h"
#include "server/errors.h"

namespace sala {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using boost::system::error_code;

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
constexpr auto kPing = std::chrono::seconds(1);
constexpr auto kLinger = std::chrono::seconds(5);
constexpr std::string_view kComment = ": \n\n";

std::string reason(int status) {
  return std::string(http::obsolete_reason(static_cast<http::status>(status)));
}

/// The status line and headers of an answer.
std::string head(int status, const std::string& type, const HttpHeaders& headers, bool keep,
                 std::optional<size_t> length, bool chunked) {
  std::string text =
      fmt::format("HTTP/1.1 {} {}\r\nContent-Type: {}\r\n", status, reason(status), type);
  if (length) text += fmt::format("Content-Length: {}\r\n", *length);
  if (chunked) text += "Transfer-Encoding: chunked\r\n";
  for (const auto& [name, value] : headers) text += fmt::format("{}: {}\r\n", name, value);
  return text + (keep ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n");
}

std::string error_text(std::string_view path, int status, const std::string& message) {
  const char* code = status == 413   ? "body_too_large"
                     : status == 431 ? "headers_too_large"
                     : status == 503 ? "overloaded"
                                     : "malformed_request";
  return text_of(error_of_path(path, status, message, {}, code));
}

/// What a request's body adds to the sum of all, as long as it is in memory.
class BodyBytes {
 public:
  explicit BodyBytes(std::atomic<int64_t>& sum) : sum_(sum) {}
  ~BodyBytes() { set(0); }
  BodyBytes(const BodyBytes&) = delete;
  BodyBytes& operator=(const BodyBytes&) = delete;
  void set(int64_t bytes) { sum_ += bytes - std::exchange(bytes_, bytes); }

 private:
  std::atomic<int64_t>& sum_;
  int64_t bytes_ = 0;
};

/// An exchange whose state lives on the server's thread.
class Answer : public Exchange, public std::enable_shared_from_this<Answer> {
 public:
  explicit Answer(asio::io_context& io) : io_(io), wake_(io) {}

  void respond(int status, std::string type, std::string body, HttpHeaders headers) override {
    post([this, status, type = std::move(type), body = std::move(body),
          headers = std::move(headers)]() mutable {
      if (begun_) return;
      begun_ = ended_ = true;
      status_ = status;
      type_ = std::move(type);
      headers_ = std::move(headers);
      body_ = std::move(body);
    });
  }
  void begin_stream(HttpHeaders headers) override {
    post([this, headers = std::move(headers)]() mutable {
      if (begun_) return;
      begun_ = streams_ = true;
      headers_ = std::move(headers);
    });
  }
  void send(std::string piece) override {
    post([this, piece = std::move(piece)] {
      if (!ended_ && !gone_) body_ += piece;
    });
  }
  void end() override {
    post([this] { ended_ = true; });
  }
  void on_gone(std::function<void()> heard) override {
    post([this, heard = std::move(heard)]() mutable {
      if (gone_) return heard();
      heard_ = std::move(heard);
    });
  }
  void post(std::function<void()> work) override {
    asio::post(io_, [self = shared_from_this(), work = std::move(work)] {
      work();
      self->wake_.cancel();
    });
  }

  // What follows is for the connection, on the server's thread.

  /// Waits for news, at most until the next comment is due; false when that came first.
  asio::awaitable<bool> wait() {
    if (news()) co_return true;
    wake_.expires_after(kPing);
    co_await wake_.async_wait(kTuple);
    co_return news();
  }
  bool news() const {
    return gone_ || (begun_ && (ended_ || !body_.empty())) || (streams_ && !told_);
  }
  void leave() {
    if (gone_) return;
    gone_ = true;
    if (heard_) std::exchange(heard_, {})();
    wake_.cancel();
  }
  bool gone() const { return gone_; }
  bool begun() const { return begun_; }
  bool ended() const { return ended_; }
  bool streams() const { return streams_; }
  void tell() { told_ = true; }
  int status() const { return status_; }
  const std::string& type() const { return type_; }
  const HttpHeaders& headers() const { return headers_; }
  std::string take() { return std::exchange(body_, {}); }

 private:
  asio::io_context& io_;
  asio::steady_timer wake_;
  bool begun_ = false, streams_ = false, ended_ = false, gone_ = false;
  bool told_ = false;  ///< the head of a stream is out
  int status_ = 200;
  std::string type_, body_;
  HttpHeaders headers_;
  std::function<void()> heard_;
};

}  // namespace

struct HttpServer::Impl {
  Impl(const HttpOptions& o, HttpHandler h)
      : options(o), handler(std::move(h)), acceptor(io), deadline(io), pool(2) {}

  /// One client.
  struct Connection : std::enable_shared_from_this<Connection> {
    Connection(Impl& i, tcp::socket socket) : server(i), stream(std::move(socket)) {}

    asio::awaitable<void> run() {
      beast::flat_buffer buffer;
      bool keep = true;
      while (keep && !server.stopping) {
        // The parser takes one request; what comes behind it waits in the buffer.
        http::request_parser<http::string_body> parser;
        parser.header_limit(static_cast<uint32_t>(server.options.header_limit));
        parser.body_limit(static_cast<uint64_t>(server.options.body_limit));
        idle = true;
        stream.expires_after(server.options.idle_time);
        if (buffer.size() == 0) {
          auto [ec, bytes] = co_await stream.async_read_some(buffer.prepare(4096), kTuple);
          if (ec) break;
          buffer.commit(bytes);
        }
        idle = false;
        stream.expires_after(server.options.read_time);
        auto [ec, bytes] = co_await http::async_read_header(stream, buffer, parser, kTuple);
        if (!ec && beast::iequals(parser.get()[http::field::expect], "100-continue")) {
          std::string go = "HTTP/1.1 100 Continue\r\n\r\n";
          co_await asio::async_write(stream, asio::buffer(go), kTuple);
        }
        const auto held = std::make_shared<BodyBytes>(server.body_bytes);
        while (!ec && !parser.is_done()) {
          auto [body_ec, some] = co_await http::async_read_some(stream, buffer, parser, kTuple);
          ec = body_ec;
          held->set(std::ssize(parser.get().body()));
          if (server.body_bytes > 4 * server.options.body_limit) ec = asio::error::no_memory;
        }
        if (ec) {
          parser.get().body() = {};
          held->set(0);
          co_await refuse(ec, std::string(parser.get().target()));
          break;
        }
        keep = co_await answer(parser.release(), held);
      }
      error_code ignored;
      stream.socket().shutdown(tcp::socket::shutdown_send, ignored);
      stream.close();
    }

    asio::awaitable<void> refuse(error_code ec, std::string path) {
      int status = 400;
      if (ec == http::error::end_of_stream || ec == asio::error::eof ||
          ec == asio::error::connection_reset || ec == beast::error::timeout)
        co_return;
      if (ec == http::error::body_limit) status = 413;
      if (ec == http::error::header_limit) status = 431;
      if (ec == asio::error::no_memory) status = 503;
      const std::string body = error_text(
          path, status,
          status == 413 ? fmt::format("the body is larger than {} bytes", server.options.body_limit)
          : status == 503
              ? fmt::format(
                    "the bodies of all requests that are arriving are larger than {} "
                    "bytes: try again later, or start the server with a larger --body-limit",
                    4 * server.options.body_limit)
              : "not a request of HTTP/1.1: " + reason(status));
      HttpHeaders headers;
      if (status == 503) headers.emplace_back("Retry-After", "1");
      const std::string text =
          head(status, "application/json", headers, false, body.size(), false) + body;
      stream.expires_after(server.options.write_time);
      auto [failed, written] = co_await asio::async_write(stream, asio::buffer(text), kTuple);
      // A client that is still sending hears the answer only if what it sends is taken, for a
      // while.
      stream.socket().shutdown(tcp::socket::shutdown_send, failed);
      stream.expires_after(kLinger);
      std::vector<char> waste(1 << 16);
      while (!failed) {
        auto [done, bytes] = co_await stream.async_read_some(asio::buffer(waste), kTuple);
        failed = done;
      }
    }

    /// Tells the answer that the client has left. Bytes that come are the next request.
    static asio::awaitable<void> watch(std::shared_ptr<Connection> self,
                                       std::shared_ptr<Answer> answer) {
      const auto [ec] = co_await self->stream.socket().async_wait(tcp::socket::wait_read, kTuple);
      if (ec || answer->ended()) co_return;
      char byte = 0;
      error_code peek;
      self->stream.socket().non_blocking(true, peek);
      const size_t got =
          self->stream.socket().receive(asio::buffer(&byte, 1), tcp::socket::message_peek, peek);
      if (got == 0 && peek != asio::error::would_block) answer->leave();
    }

    asio::awaitable<bool> answer(http::request<http::string_body> message,
                                 std::shared_ptr<BodyBytes> held) {
      const bool keep = message.keep_alive() && !server.stopping;
      const bool chunked = message.version() >= 11;
      const bool is_head = message.method() == http::verb::head;
      HttpRequest request;
      request.method = std::string(message.method_string());
      request.path = std::string(message.target());
      request.path = request.path.substr(0, request.path.find('?'));
      for (const auto& field : message) {
        std::string name(field.name_string());
        std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
        request.headers[name] = std::string(field.value());
      }
      request.body = std::move(message.body());
      const auto answer = std::make_shared<Answer>(server.io);
      asio::co_spawn(server.io, watch(shared_from_this(), answer), asio::detached);
      // A client that leaves ends its connection, which this must not need then.
      asio::post(server.pool, [&server = server, request = std::move(request), answer,
                               held = std::move(held)]() mutable {
        server.handler(std::move(request), answer);
      });
      const bool sent = co_await write(*answer, keep, chunked, is_head);
      if (!sent) answer->leave();
      error_code ignored;
      stream.socket().cancel(ignored);  // the watch
      co_return sent&& keep && (chunked || !answer->streams());
    }

    /// Writes an answer as it comes. False when the client is gone or too slow.
    asio::awaitable<bool> write(Answer& answer, bool keep, bool chunked, bool is_head) {
      bool told = false;
      for (;;) {
        const bool news = co_await answer.wait();
        if (answer.gone()) co_return false;
        if (!answer.begun() || (!news && !told)) continue;
        std::string text;
        std::string body = answer.take();
        const bool over = answer.ended();
        if (!answer.streams()) {
          text = head(answer.status(), answer.type(), answer.headers(), keep, body.size(), false);
          if (!is_head) text += body;
        } else {
          if (!told) {
            HttpHeaders headers = answer.headers();
            headers.emplace_back("Cache-Control", "no-cache");
            headers.emplace_back("X-Accel-Buffering", "no");
            text = head(200, "text/event-stream; charset=utf-8", headers, keep && chunked, {},
                        chunked);
            answer.tell();
            told = true;
          }
          if (!news) body = kComment;
          if (!body.empty())
            text += chunked ? fmt::format("{:x}\r\n{}\r\n", body.size(), body) : body;
          if (over && chunked) text += "0\r\n\r\n";
        }
        stream.expires_after(server.options.write_time);
        const auto [ec, bytes] = co_await asio::async_write(stream, asio::buffer(text), kTuple);
        if (ec) co_return false;
        if (over) co_return true;
      }
    }

    Impl& server;
    beast::tcp_stream stream;
    bool idle = true;
  };

  asio::awaitable<void> accept() {
    while (!stopping) {
      auto [ec, socket] = co_await acceptor.async_accept(kTuple);
      if (ec == asio::error::operation_aborted) break;
      if (ec) {  // too many files: wait until some are closed
        asio::steady_timer pause(io, std::chrono::milliseconds(50));
        co_await pause.async_wait(kTuple);
        continue;
      }
      error_code ignored;
      socket.set_option(tcp::no_delay(true), ignored);
      if (std::ssize(connections) >= options.connections) {
        const std::string body = error_text({}, 503, "too many connections");
        const std::string text =
            head(503, "application/json", {{"Retry-After", "1"}}, false, body.size(), false) + body;
        socket.non_blocking(true, ignored);
        socket.send(asio::buffer(text), 0, ignored);
        continue;
      }
      const auto connection = std::make_shared<Connection>(*this, std::move(socket));
      connections.insert(connection);
      asio::co_spawn(
          io, [connection] { return connection->run(); },
          [this, connection](std::exception_ptr) {
            connections.erase(connection);
            if (stopping && connections.empty()) io.stop();
          });
    }
  }

  HttpOptions options;
  HttpHandler handler;
  std::atomic<int64_t> body_bytes = 0;
  asio::io_context io{1};
  tcp::acceptor acceptor;
  asio::steady_timer deadline;
  asio::thread_pool pool;
  std::set<std::shared_ptr<Connection>> connections;
  bool stopping = false;
};

HttpServer::HttpServer(const HttpOptions& options, HttpHandler handler)
    : impl_(std::make_unique<Impl>(options, std::move(handler))) {
  error_code ec;
  const auto fails = [&] {
    fail("cannot listen on {} port {}: {}; choose another --host or --port", options.host,
         options.port, ec.message());
  };
  const auto address =
      asio::ip::make_address(options.host == "localhost" ? "127.0.0.1" : options.host, ec);
  if (ec) fails();
  const tcp::endpoint endpoint(address, static_cast<uint16_t>(options.port));
  impl_->acceptor.open(endpoint.protocol(), ec);
  if (!ec) impl_->acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) impl_->acceptor.bind(endpoint, ec);
  if (!ec) impl_->acceptor.listen(asio::socket_base::max_listen_connections, ec);
  if (ec) fails();
}

HttpServer::~HttpServer() {
  impl_->pool.join();
  impl_->io.stop();
}

int HttpServer::port() const { return impl_->acceptor.local_endpoint().port(); }

void HttpServer::run() {
  asio::co_spawn(impl_->io, impl_->accept(), asio::detached);
  impl_->io.run();
}

void HttpServer::stop(std::chrono::milliseconds time) {
  asio::post(impl_->io, [this, time] {
    if (impl_->stopping) return;
    impl_->stopping = true;
    error_code ignored;
    impl_->acceptor.close(ignored);
    for (const auto& connection : impl_->connections)
      if (connection->idle) connection->stream.close();
    if (impl_->connections.empty()) impl_->io.stop();
    impl_->deadline.expires_after(time);
    impl_->deadline.async_wait([this](error_code ec) {
      if (!ec) impl_->io.stop();
    });
  });
}

}  // namespace sala
