Feature: HTTP as the world speaks it
  Health checks, browsers, proxies and dashboards send more than the contract's own requests. What is harmless is served.

  Rule: As it is configured by default

    Background:
      Given the shared daemon

    @LO-828
    Scenario Outline: A health check asks for the headers alone
      When I send HEAD "<path>"
      Then the answer is 200
      And its headers have
        | Content-Type | <type> |

      Examples:
        | path       | type                              |
        | /healthz   | application/json; charset=utf-8   |
        | /readyz    | application/json; charset=utf-8   |
        | /v1/tasks  | application/json; charset=utf-8   |
        | /v1/pools/ | application/json; charset=utf-8   |
        | /metrics   | /^text\/plain/                    |

    @LO-828
    Scenario Outline: A path is asked for its methods
      When I send OPTIONS "<path>"
      Then the answer is 204
      And its headers have
        | Allow                        | <allowed> |
        | Access-Control-Allow-Methods | absent    |

      Examples:
        | path              | allowed                  |
        | /v1/tasks         | GET, HEAD, OPTIONS, POST |
        | /v1/tasks/        | GET, HEAD, OPTIONS, POST |
        | /v1/tasks/x/cancel | OPTIONS, POST           |

    @LO-828
    Scenario Outline: What changes nothing is ignored
      When I send GET "<path>"
      Then the answer is 200

      Examples:
        | path                    |
        | /v1/tasks/              |
        | /v1/tasks?stat=queued   |
        | /v1/tasks/?_=1764478000 |
        | /healthz?cache=no&cache=never |

    @LO-828 @LO-844
    Scenario Outline: A submit in other words
      When I send POST "<path>" with the headers
        | Content-Type | <type> |
        | body         | <body> |
      Then the answer is 202
      And its body has
        | seed | 42 |

      Examples:
        | path       | type                            | body                                                                                |
        | /v1/tasks/ | application/json                | {"model_ref": "haiku", "prompt": "x", "max_tokens": 1, "seed": 42}                  |
        | /v1/tasks  | Application/JSON; Charset=UTF-8 | {"model_ref": "haiku", "prompt": "x", "max_tokens": 1, "seed": 42}                  |
        | /v1/tasks?a=b | application/json             | {"model_ref": "haiku", "prompt": "x", "max_tokens": 1e0, "seed": 42.0}              |
        | /v1/tasks  | application/json                | {"model_ref": "haiku", "prompt": "x", "max_tokens": 1, "seed": 42, "params": null, "session_id": null, "deadline_ms": null} |

  Rule: Where the configuration names the origin of a page

    Background:
      Given the settings
        | cors | {origins: ["http://page.example:8123"]} |
      And a daemon

    @LO-829
    Scenario: A page of that origin submits a task, follows it, and reads a refusal
      When I send OPTIONS "/v1/tasks" with the headers
        | Authorization                  | none                       |
        | Origin                         | http://page.example:8123   |
        | Access-Control-Request-Method  | POST                       |
        | Access-Control-Request-Headers | authorization,content-type |
      Then the answer is 204
      And its headers have
        | Access-Control-Allow-Origin      | http://page.example:8123      |
        | Access-Control-Allow-Methods     | GET, HEAD, OPTIONS, POST      |
        | Access-Control-Allow-Headers     | /Authorization, Content-Type/ |
        | Access-Control-Allow-Credentials | absent                        |
      When I send POST "/v1/tasks" with the headers
        | Origin       | http://page.example:8123                                               |
        | Content-Type | application/json                                                       |
        | body         | {"task_id": "page", "model_ref": "haiku", "prompt": "x", "max_tokens": 2} |
      Then the answer is 202
      And its headers have
        | Access-Control-Allow-Origin   | http://page.example:8123 |
        | Access-Control-Expose-Headers | /Retry-After/            |
        | Vary                          | Origin                   |
      When I send GET "/v1/tasks/page/stream" with the headers
        | Origin | http://page.example:8123 |
      Then the answer is 200
      And its headers have
        | Content-Type                  | text/event-stream        |
        | Access-Control-Allow-Origin   | http://page.example:8123 |
        | Access-Control-Expose-Headers | /X-Correlation-Id/       |
      When I send GET "/v1/tasks/none" with the headers
        | Origin | http://page.example:8123 |
      Then the answer is 404 NOT_FOUND
      And its headers have
        | Access-Control-Allow-Origin | http://page.example:8123 |

    @LO-829
    Scenario: A page of another origin is told nothing
      When I send OPTIONS "/v1/tasks" with the headers
        | Origin                        | http://other.example |
        | Access-Control-Request-Method | POST                 |
      Then the answer is 403 POLICY_DENIED
      And its headers have
        | Access-Control-Allow-Origin | absent |
        | Vary                        | Origin |
      When I send GET "/v1/tasks" with the headers
        | Origin | http://other.example |
      Then the answer is 403 POLICY_DENIED
      And its headers have
        | Access-Control-Allow-Origin   | absent |
        | Access-Control-Expose-Headers | absent |
