Feature: Trouble with a card
  When the driver reports trouble with a card, the replicas of that card, and no others, go out of service. They come back when the card does.

  @ORCH-3053
  Scenario: A card falls off the bus, and comes back
    Given the cards of the reference box
    And a pool "large" of a model of 14 GiB
    And a pool "small" of a model of 2 GiB with
      | device | [1] |
    And a daemon
    When card 0 falls off the bus with XID 79
    Then the log has a line "GPU event" with
      | kind     | xid                        |
      | card     | 0                          |
      | xid      | 79                         |
      | critical | true                       |
      | text     | /XID 79: the card fell off/ |
    And the log has a line "replica is not ready" with
      | replica_id | large-0                                                |
      | reason     | driver_reset                                           |
      | error      | /the GPU driver had trouble with card 0 \(XID 79: the card fell off the bus/ |
    And replica "large-0" says "card 0 (RTX 3090) is not used for now"
    And card 0 has
      | healthy    | false             |
      | last_error | /the card/        |
    And the metrics have
      | llorch_worker_restarts_total{replica_id="large-0",reason="driver_reset"} | 1 |
    When I submit task "other" with
      | model_ref | small |
    And I follow task "other"
    Then stream "other" is "started", tokens, "end"
    When card 0 is back
    Then replica "large-0" is ready on card "0"
    And card 0 has
      | healthy | true |
    When I submit task "again" with
      | model_ref | large |
    And I follow task "again"
    Then stream "again" is "started", tokens, "end"

  @ORCH-3053 @LO-501
  Scenario: A worker that runs out of its card's memory is told apart, and asks for more next time
    Given the cards of the reference box
    And a pool "greedy" of a model of 5 GiB with
      | device | [1] |
    And a worker of the model "greedy" takes 14 GiB
    And the daemon runs
    Then the log has a line "replica is not ready" with
      | reason | oom_vram                                                                              |
      | error  | /the worker ran out of the memory of card 1, where 5.3 GiB were reserved/ |
    And the worker of "greedy-0" was restarted for "oom_vram"

  @LO-501
  Scenario: What a worker really takes is shown beside the estimate, and counts from then on
    Given the cards of the reference box
    And a pool "thirsty" of a model of 5 GiB with
      | device | [1] |
    And a worker of the model "thirsty" takes 9 GiB
    And a daemon
    Then replica "thirsty-0" is ready on card "1"
    When I send GET "/v1/pools/thirsty/health"
    Then its body has
      | replicas.0.estimate_bytes | < 6000000000 |
      | replicas.0.observed_bytes | 9663676416   |
    And the metrics have
      | vram_used_bytes{pool_id="thirsty",device="1"} | 9663676416 |
    And card 1 has
      | holders.0.replica_id | thirsty-0    |
      | holders.0.used_bytes | 9663676416   |
      | vram_promised_bytes  | 0            |
      | vram_free_bytes      | < 3100000000 |

  @LO-501
  Scenario: What was learned of a model's memory is asked for after a restart, before a worker runs out of it
    Given the cards of the reference box
    And a pool "thirsty" of a model of 5 GiB with
      | device | [1] |
    And a worker of the model "thirsty" takes 9 GiB
    And a daemon
    Then replica "thirsty-0" is ready on card "1"
    When I kill the daemon
    And a foreign process takes 4 GiB of card 1
    And the daemon runs
    Then replica "thirsty-0" says "a worker needs 9.4 GiB on card 1 (RTX 3060)"
    When no foreign process takes memory of card 1
    Then replica "thirsty-0" is ready on card "1"

  @ORCH-3053
  Scenario: A worker that is killed is neither the driver's fault nor the memory's
    Given the cards of the reference box
    And a pool "plain" of a model of 2 GiB
    And a daemon
    When I kill the worker of "plain-0"
    Then the replica "plain-0" is restarted and ready again
    And the metrics have
      | llorch_worker_restarts_total{replica_id="plain-0",reason="exited"} | 1 |
