// The HTTP side with raw sockets: what clients send and do, good and bad.
#include "server/http.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

namespace sala {
namespace {

using namespace std::chrono_literals;

/// A client that says bytes and hears what comes until the server closes, or `until` is in it.
class Client {
 public:
  explicit Client(int port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    const timeval time{.tv_sec = 20, .tv_usec = 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
  }
  ~Client() { close(); }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  void say(const std::string& bytes) {
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t sent = ::send(fd_, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
      if (sent <= 0) return;
      at += static_cast<size_t>(sent);
    }
  }
  std::string hear(const std::string& until = "what nobody says") {
    char bytes[4096];
    while (heard_.find(until) == std::string::npos) {
      const ssize_t got = ::recv(fd_, bytes, sizeof bytes, 0);
      if (got <= 0) break;
      heard_.append(bytes, static_cast<size_t>(got));
    }
    return std::exchange(heard_, {});
  }

 private:
  int fd_;
  std::string heard_;
};

class Http : public ::testing::Test {
 protected:
  Http() {
    HttpOptions options;
    options.port = 0;
    options.body_limit = 1 << 20;
    options.header_limit = 4096;
    options.connections = 20;
    options.read_time = 1s;
    options.write_time = 1s;
    server_ = std::make_unique<HttpServer>(
        options, [this](HttpRequest request, std::shared_ptr<Exchange> exchange) {
          if (request.path == "/echo")
            return exchange->respond(200, "text/plain", request.body + request.header("x-name"));
          if (request.path == "/slow") std::this_thread::sleep_for(20ms);
          if (request.path == "/stream") {
            exchange->begin_stream();
            for (int i = 0; i < 3; ++i) exchange->send("data: " + std::to_string(i) + "\n\n");
            return exchange->end();
          }
          if (request.path == "/flood") {
            exchange->on_gone([this] { ++gone_; });
            exchange->begin_stream();
            for (int i = 0; i < 64; ++i) exchange->send(std::string(1 << 20, 'x'));
            return;
          }
          exchange->on_gone([this] { ++gone_; });  // and never an answer
          if (request.path == "/wait") exchange->begin_stream();
        });
    thread_ = std::thread([this] { server_->run(); });
  }
  ~Http() override {
    server_->stop(2s);
    thread_.join();
  }
  Client client() { return Client(server_->port()); }
  std::string ask(const std::string& bytes) {
    Client c = client();
    c.say(bytes);
    return c.hear();
  }
  void expect_gone() {
    for (int i = 0; i < 500 && gone_ == 0; ++i) std::this_thread::sleep_for(10ms);
    EXPECT_EQ(gone_, 1);
  }

  std::atomic<int> gone_ = 0;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

TEST_F(Http, AnswersOneRequestAfterAnother) {
  Client c = client();
  for (int i = 0; i < 3; ++i) {
    c.say("POST /echo?x=1 HTTP/1.1\r\nHost: a\r\nX-Name: me\r\nContent-Length: 2\r\n\r\nhi");
    const std::string got = c.hear("hime");
    EXPECT_TRUE(got.starts_with("HTTP/1.1 200 OK\r\n")) << got;
    EXPECT_TRUE(got.ends_with("\r\n\r\nhime")) << got;
  }
  // Two at once.
  c.say(
      "GET /echo HTTP/1.1\r\nX-Name: one\r\n\r\nGET /echo HTTP/1.1\r\nX-Name: two\r\nConnection: "
      "close\r\n\r\n");
  const std::string got = c.hear();
  EXPECT_LT(got.find("\r\n\r\none"), got.find("\r\n\r\ntwo")) << got;
}

TEST_F(Http, StreamsInChunksAndPlainToOldClients) {
  const std::string got = ask("GET /stream HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_NE(got.find("text/event-stream"), std::string::npos);
  EXPECT_NE(got.find("Transfer-Encoding: chunked"), std::string::npos);
  EXPECT_NE(got.find("data: 2\n\n"), std::string::npos);
  EXPECT_TRUE(got.ends_with("0\r\n\r\n")) << got;
  const std::string old = ask("GET /stream HTTP/1.0\r\n\r\n");
  EXPECT_TRUE(old.ends_with("\r\n\r\ndata: 0\n\ndata: 1\n\ndata: 2\n\n")) << old;
}

TEST_F(Http, WaitingStreamsHaveComments) {
  Client c = client();
  c.say("GET /wait HTTP/1.1\r\n\r\n");
  EXPECT_NE(c.hear(": \n\n").find("HTTP/1.1 200"), std::string::npos);
  c.close();
  expect_gone();
}

TEST_F(Http, HearsThatAClientHasLeft) {
  Client c = client();
  c.say("GET /never HTTP/1.1\r\n\r\n");
  std::this_thread::sleep_for(100ms);
  c.close();
  expect_gone();
}

TEST_F(Http, ClientsMayLeaveBeforeTheirRequestIsLookedAt) {
  for (int i = 0; i < 15; ++i) {  // more than the server has threads
    Client c = client();
    c.say("GET /slow HTTP/1.1\r\n\r\n");
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_NE(ask("GET /echo HTTP/1.1\r\nConnection: close\r\n\r\n").find(" 200 "),
            std::string::npos);
  for (int i = 0; i < 500 && gone_ < 15; ++i) std::this_thread::sleep_for(10ms);
  EXPECT_EQ(gone_, 15);
}

TEST_F(Http, LeavesClientsThatDoNotRead) {
  Client c = client();
  c.say("GET /flood HTTP/1.1\r\n\r\n");
  expect_gone();
}

TEST_F(Http, RefusesWhatIsTooLargeTooSlowOrNoHttp) {
  EXPECT_NE(ask("POST /echo HTTP/1.1\r\nContent-Length: 104857600\r\n\r\n").find(" 413 "),
            std::string::npos);
  EXPECT_NE(ask("POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n200000\r\n" +
                std::string(0x200000, 'x'))
                .find(" 413 "),
            std::string::npos);
  EXPECT_NE(ask("GET /echo HTTP/1.1\r\nX: " + std::string(5000, 'x') + "\r\n\r\n").find(" 431 "),
            std::string::npos);
  EXPECT_NE(ask("nonsense\r\n\r\n").find(" 400 "), std::string::npos);
  EXPECT_NE(ask("nonsense\r\n\r\n").find(R"("code":"malformed_request")"), std::string::npos);
  EXPECT_NE(ask("POST /v1/messages?beta=true HTTP/1.1\r\nContent-Length: 104857600\r\n\r\n")
                .find(R"({"type":"error","error":{"type":"request_too_large")"),
            std::string::npos);
  EXPECT_EQ(ask("POST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nhi"),
            "");  // closed after a second
  EXPECT_NE(ask("POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nConnection: "
                "close\r\nContent-Length: 2\r\n\r\nhi")
                .find("100 Continue"),
            std::string::npos);
}

TEST_F(Http, BoundsTheBodiesOfAllRequests) {
  const std::string post =
      "POST /echo HTTP/1.1\r\nConnection: close\r\nContent-Length: 1000000\r\n\r\n";
  const std::string most(950'000, 'x');
  {
    std::vector<std::unique_ptr<Client>> clients;  // who hold 3.8 MB of 4
    for (int i = 0; i < 4; ++i) {
      clients.push_back(std::make_unique<Client>(server_->port()));
      clients.back()->say(post + most);
    }
    std::this_thread::sleep_for(100ms);
    const std::string got = ask(post + most);
    EXPECT_TRUE(got.starts_with("HTTP/1.1 503 ")) << got;
    EXPECT_NE(got.find("Retry-After: 1\r\n"), std::string::npos) << got;
    EXPECT_NE(got.find("4194304 bytes"), std::string::npos) << got;
    EXPECT_NE(ask("POST /echo HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")
                  .find(" 200 "),
              std::string::npos);
  }
  // What left or was answered counts no more.
  for (int i = 0; i < 10; ++i)
    EXPECT_NE(ask(post + std::string(1'000'000, 'x')).find(" 200 "), std::string::npos);
}

TEST_F(Http, BoundsConnections) {
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(std::make_unique<Client>(server_->port()));
    clients.back()->say("GET /echo HTTP/1.1\r\nX-Name: in\r\n\r\n");
    EXPECT_NE(clients.back()->hear("in").find(" 200 "), std::string::npos);
  }
  EXPECT_NE(ask("GET /echo HTTP/1.1\r\n\r\n").find(" 503 "), std::string::npos);
  clients.clear();
  for (int i = 0; i < 100; ++i) {
    if (ask("GET /echo HTTP/1.1\r\nConnection: close\r\n\r\n").find(" 200 ") != std::string::npos)
      return;
    std::this_thread::sleep_for(20ms);
  }
  ADD_FAILURE() << "no connection is ever free again";
}

}  // namespace
}  // namespace sala
