Feature: Engines register themselves
  With the token, an engine on another host joins a pool for a while. Each further registration renews that.

  Background:
    Given the environment
      | LLORCH_API_TOKEN | the-right-token-1234 |
    And a fake engine with 1 slot
    And a pool "open" whose engines register themselves with
      | ctx | 128 |

  @ORCH-2101 @AUTH-1008
  Scenario: A pool serves by what has registered
    Given a daemon
    When I send GET "/readyz"
    Then the answer is 503 POOL_UNREADY
    When I submit task "early"
    Then the answer is 503 POOL_UNREADY
    When I post to "/v1/placement/explain"
      """
      {"model_ref": "haiku"}
      """
    Then its body has
      | replica_id             | absent                            |
      | candidates.0.reasons.0 | /no engine has registered with it/ |
    When I send POST "/v1/workers/register" with the headers
      | Authorization | none |
    Then the answer is 401 MISSING_TOKEN
    When I send POST "/v1/workers/register" with the headers
      | Authorization | Bearer something-else |
    Then the answer is 401 BAD_TOKEN
    When the fake engine registers with pool "open" as "attic"
    Then the answer is 201
    And its body has
      | worker_id  | attic      |
      | replica_id | open-attic |
      | lease_ms   | 30000      |
    And "/v1/pools/open/health" has come to
      | pool.ready       | true       |
      | pool.replicas    | 1          |
      | replicas.0.id    | open-attic |
      | replicas.0.state | ready      |
    When the fake engine registers with pool "open" as "attic"
    Then the answer is 201
    Given the fake engine's script is
      """
      {"tokens": 3, "match": "haiku"}
      """
    When I submit task "served"
    And I follow task "served"
    Then stream "served" is "started", tokens, "end"
    And the end of stream "served" has
      | receipt.replica_id   | open-attic  |
      | receipt.model_digest | sha256:11d2 |

  @ORCH-2101 @OC-CTRL-2030
  Scenario: What does not fit is refused, and says why
    Given a pool "own" of built-in workers with
      | replicas | 1 |
    And a daemon
    When the fake engine registers with pool "open" as "attic"
    Then the answer is 201
    And registrations of the fake engine with pool "open" as "attic" are refused where
      | pool_id      | cellar                   | 404 NOT_FOUND      | open, own                       |
      | pool_id      | own                      | 400 INVALID_PARAMS | runs its own workers            |
      | engine       | tgi                      | 400 INVALID_PARAMS | engine                          |
      | ctx          | 64                       | 400 INVALID_PARAMS | smaller than the 128            |
      | ctx          | 0                        | 400 INVALID_PARAMS | ctx                             |
      | slots        | 0                        | 400 INVALID_PARAMS | slots                           |
      | url          | ftp://192.168.1.20:9700  | 400 INVALID_PARAMS | http://                         |
      | url          | http://u:p@192.168.1.20  | 400 INVALID_PARAMS | must not hold a user            |
      | url          | http://192.168.1.20:9700 | 409 CONFLICT       | registered with another URL     |
      | model_digest | sha256:22e3              | 409 CONFLICT       | registered with another URL or model |
      | worker_id    | cellar                   | 409 CONFLICT       | in pool 'open' already          |
      | worker_id    | ../attic                 | 400 INVALID_PARAMS | worker_id                       |
    When I send GET "/v1/pools/open/health"
    Then its body lists 1 "replicas"

  @ORCH-2101 @LO-202
  Scenario: Tasks wait for an engine that has to register anew after a restart
    Given a daemon
    When the fake engine registers with pool "open" as "attic"
    Then "/v1/pools/open/health" has come to
      | pool.ready | true |
    Given the fake engine's script is
      """
      {"tokens": 3, "stepped": true, "match": "haiku"}
      """
    When I submit tasks "first, second" and follow them
    And the fake engine releases 1 token
    Then stream "first" has 1 token
    When I kill the daemon
    Then stream "first" breaks off
    And stream "second" breaks off
    And the fake engine has come to busy 0
    When I start the daemon again
    And I follow task "first" as "first-again"
    And I follow task "second" as "second-again"
    And the fake engine registers with pool "open" as "attic"
    Then the answer is 201
    When the fake engine releases 8 tokens
    Then streams "first-again, second-again" are all "started", tokens, "end"
