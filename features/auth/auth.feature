Feature: Who may call
  There is one bearer token. Callers from other machines always need it; callers on loopback need it unless the configuration makes it optional.

  Rule: A token is required

    Background:
      Given the settings
        | auth | {optional_on_loopback: false} |
      And the environment
        | LLORCH_API_TOKEN | the-right-token-1234 |
      And a daemon

    @AUTH-1001 @AUTH-1003 @AUTH-1005
    Scenario: A call without a token
      When I send GET "/v1/tasks" with the headers
        | Authorization | none |
      Then the answer is 401 MISSING_TOKEN
      And its body has
        | hint      | /^40101/ |
        | retriable | false    |
      And its headers have
        | WWW-Authenticate | Bearer |

    @AUTH-1006 @AUTH-1007 @AUTH-1004
    Scenario Outline: A call with a wrong or malformed token
      When I send GET "/v1/tasks" with the headers
        | Authorization | <header> |
      Then the answer is 401 BAD_TOKEN
      And its body has
        | hint | /^40102/ |
      And its headers have
        | WWW-Authenticate | Bearer |
      And its message does not say "the-right-token-1234"
      And the log does not hold "the-right-token-1234"

      Examples:
        | header                       |
        | Bearer the-wrong-token-1234  |
        | Bearer the-right-token-12345 |
        | Bearer                       |
        | Basic dXNlcjpwYXNz           |
        | the-right-token-1234         |

    @AUTH-1001 @AUTH-1007
    Scenario: A call with the token, which no log line holds
      When I submit task "mine"
      Then the answer is 202
      When I follow task "mine"
      Then stream "mine" ends with end
      And the log narrates the admission of task "mine" with
        | actor | /^token:[0-9a-f]{6}$/ |
      And the log does not hold "the-right-token-1234"

    @AUTH-1003
    Scenario Outline: Whether the daemon lives and is ready, everybody may ask
      When I send GET "<path>" with the headers
        | Authorization | none |
      Then the answer is 200

      Examples:
        | path     |
        | /healthz |
        | /readyz  |

    @AUTH-1003
    Scenario Outline: Everything else needs the token, whether it exists or not
      When I send GET "<path>" with the headers
        | Authorization | none |
      Then the answer is 401 MISSING_TOKEN

      Examples:
        | path                    |
        | /metrics                |
        | /v1/capabilities        |
        | /v1/pools               |
        | /v1/tasks/x/stream      |
        | /v1/catalog/models      |
        | /nowhere                |

    @AUTH-1003
    Scenario: With the token, a web page's host and origin do not matter
      When I send GET "/v1/pools" with the headers
        | Host   | home.example         |
        | Origin | http://other.example |
      Then the answer is 200

  Rule: The token is optional on loopback

    @AUTH-1003 @AUTH-1007
    Scenario: A call without a token is that of localhost
      Given a daemon
      When I submit task "mine"
      Then the answer is 202
      When I follow task "mine"
      Then stream "mine" ends with end
      And the log narrates the admission of task "mine" with
        | actor | localhost |

    @AUTH-1003 @AUTH-1006
    Scenario: A wrong token is refused all the same
      Given the environment
        | LLORCH_API_TOKEN | the-right-token-1234 |
      And a daemon
      When I send GET "/v1/tasks" with the headers
        | Authorization | Bearer something-else |
      Then the answer is 401 BAD_TOKEN

    @AUTH-1003 @LO-847
    Scenario Outline: Where no token is configured, any credential is ignored
      Given the shared daemon
      When I send GET "/v1/tasks" with the headers
        | Authorization | <header> |
      Then the answer is 200

      Examples:
        | header               |
        | Bearer sk-dummy      |
        | Basic dXNlcjpwYXNz   |

    @AUTH-1008
    Scenario: A worker that registers needs the token on loopback too
      Given the environment
        | LLORCH_API_TOKEN | the-right-token-1234 |
      And a daemon
      When I send POST "/v1/workers/register" with the headers
        | Authorization | none                    |
        | Content-Type  | application/json        |
        | body          | {"worker_id": "attic"} |
      Then the answer is 401 MISSING_TOKEN
      When I post to "/v1/workers/register"
        """
        {"worker_id": "attic", "pool_id": "default", "url": "http://127.0.0.1:1", "engine": "llamacpp", "engine_version": "v", "model_digest": "d", "fingerprint": "f", "slots": 1, "ctx": 256}
        """
      Then the answer is 400 INVALID_PARAMS
      And its message says "runs its own workers"

    @AUTH-1008
    Scenario: Where no token is configured, no worker can register
      Given the shared daemon
      When I send POST "/v1/workers/register"
      Then the answer is 401 MISSING_TOKEN

    @AUTH-1003
    Scenario Outline: A web page of another site is refused
      Given the shared daemon
      When I send POST "/v1/tasks" with the headers
        | <header>     | <value>                                |
        | Content-Type | application/json                       |
        | body         | {"model_ref": "haiku", "prompt": "x"} |
      Then the answer is 403 POLICY_DENIED
      And its message says "token"

      Examples:
        | header         | value                |
        | Host           | rebound.example      |
        | Origin         | http://evil.example  |
        | Origin         | null                 |
        | Sec-Fetch-Site | cross-site           |

    @AUTH-1003
    Scenario Outline: A page of the daemon's own address is let in
      Given the shared daemon
      When I send GET "/v1/pools" with the headers
        | <header> | <value> |
      Then the answer is 200

      Examples:
        | header         | value         |
        | Host           | localhost     |
        | Host           | [::1]:8080    |
        | Sec-Fetch-Site | same-origin   |
        | Sec-Fetch-Site | none-of-these |

  Rule: The start is refused where nobody or everybody could call

    @AUTH-1002
    Scenario Outline: An address that others can reach needs a token
      Given the settings
        | bind_addr | <address> |
      And the daemon's config file with the pool
        | replicas | 1 |
      When I run "orchestratord serve --config config.yaml"
      Then it exits with 2
      And it says "LLORCH_API_TOKEN"
      And it says "127.0.0.1"

      Examples:
        | address           |
        | 0.0.0.0:0         |
        | "[::]:0"          |

    @AUTH-1002
    Scenario: The environment's address counts
      Given the environment
        | LLORCH_BIND_ADDR | 0.0.0.0:0 |
      And the daemon's config file with the pool
        | replicas | 1 |
      When I run "orchestratord serve --config config.yaml"
      Then it exits with 2
      And it says "LLORCH_API_TOKEN"

    @AUTH-1002
    Scenario: With a token it starts, and demands it
      Given the settings
        | bind_addr | "0.0.0.0:0" |
      And the environment
        | LLORCH_API_TOKEN | the-right-token-1234 |
      And a daemon
      When I send GET "/v1/pools"
      Then the answer is 200

    @AUTH-1003
    Scenario: A token that is required and not set
      Given the settings
        | auth | {optional_on_loopback: false} |
      And the daemon's config file with the pool
        | replicas | 1 |
      When I run "orchestratord serve --config config.yaml"
      Then it exits with 2
      And it says "LLORCH_API_TOKEN"

    @HME-002
    Scenario: The default address is on loopback
      Given the file "least.yaml"
        """
        auth: {optional_on_loopback: true}
        pools:
          - id: default
            device: cpu
            model: {ref: "file:$MODEL"}
        """
      When I run "orchestratord check --config least.yaml"
      Then it exits with 0
      And it says "127.0.0.1:8080"
