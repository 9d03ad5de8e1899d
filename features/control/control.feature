Feature: What is there
  Capabilities, pools and health say what this server is, and whether it can serve.

  @ORCH-3095
  Scenario: Capabilities tell versions, pools, limits and which operations are live
    Given the shared daemon
    When I send GET "/v1/capabilities"
    Then the answer is 200
    And its body has
      | api_version                | /^[0-9]+\.[0-9]+\.[0-9]+$/ |
      | server_version             | /./                        |
      | pools.0.id                 | default                    |
      | pools.0.engine             | llamacpp                   |
      | pools.0.engine_version     | /./                        |
      | pools.0.model.id           | haiku                      |
      | pools.0.workload           | completion                 |
      | pools.0.ctx                | 256                        |
      | pools.0.slots              | 1                          |
      | pools.0.replicas           | 2                          |
      | pools.0.replicas_ready     | 2                          |
      | limits.max_body_bytes      | 10485760                   |
      | limits.max_seed            | 4294967294                 |
      | features                   | /stream_resume/            |
      | gpus                       | []                         |
      | operations                 | /"id":"createTask","method":"POST","path":"\/v1\/tasks","plane":"data","status":"live"/ |
    And its body has
      | operations | /"id":"listModels","method":"GET","path":"\/v1\/catalog\/models","plane":"catalog","status":"live"/ |

  @ORCH-2101
  Scenario: Pools and their health
    Given the shared daemon
    When I send GET "/v1/pools"
    Then the answer is 200
    And its body lists 1 "pools"
    And its body has
      | pools.0.id                | default                    |
      | pools.0.ready             | true                       |
      | pools.0.draining          | false                      |
      | pools.0.device            | cpu                        |
      | pools.0.sampler_profile   | v1                         |
      | pools.0.model.digest      | /^sha256:[0-9a-f]{64}$/    |
      | pools.0.queue.capacity    | 64                         |
      | pools.0.queue.full_policy | reject                     |
    When I send GET "/v1/pools/default/health"
    Then the answer is 200
    And its body lists 2 "replicas"
    And its body has
      | pool.id                  | default          |
      | replicas.0.id            | default-0        |
      | replicas.0.state         | ready            |
      | replicas.0.slots         | 1                |
      | replicas.0.fingerprint   | /^fp-[0-9a-f]{16,64}$/ |
      | replicas.1.id            | default-1        |
      | replicas.1.state         | ready            |
      | gpus                     | []               |

  @ORCH-3046
  Scenario: Replicas of one pool on one machine have one fingerprint
    Given the shared daemon
    When I send GET "/v1/pools/default/health"
    Then I keep its "replicas.0.fingerprint" as $FINGERPRINT
    And its body has
      | replicas.1.fingerprint | $FINGERPRINT |

  @ORCH-2101
  Scenario: An unknown pool is answered with the known ones
    Given the shared daemon
    When I send GET "/v1/pools/attic/health"
    Then the answer is 404 NOT_FOUND
    And its message says "default"

  @ORCH-2101 @ORCH-3010
  Scenario: A pool whose engine is down says why, and the daemon is alive but not ready
    Given a daemon whose engine is down
    Then the log has a line "replica is not ready"
    When I send GET "/healthz"
    Then the answer is 200
    And its body has
      | status | ok |
    When I send GET "/readyz"
    Then the answer is 503 POOL_UNREADY
    And its body has
      | retriable      | true |
      | retry_after_ms | > 0  |
    When I send GET "/v1/pools/default/health"
    Then the answer is 200
    And its body has
      | pool.ready            | false                                      |
      | pool.last_error       | /./                                        |
      | replicas.0.state      | /^(backoff\|provisioning\|loading)$/       |
      | replicas.0.last_error | /./                                        |

  @ORCH-3002 @ORCH-2101
  Scenario: A pool is ready once its model has answered
    Given the shared daemon
    When I send GET "/readyz"
    Then the answer is 200
    And its body has
      | status | ready |
    When I send GET "/healthz"
    Then its body has
      | status | ok |
