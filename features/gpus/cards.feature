Feature: Cards of unequal size
  A 24 GB and a 12 GB card serve side by side, and nobody assigns models to cards by hand. A stand-in for NVML plays the cards. A stand-in for
  llama-server claims memory from it, and decodes on the CPU.

  @ORCH-1101
  Scenario: The cards found at start are in the log, in /v1/gpus and in the capabilities
    Given the cards of the reference box
    And a pool "small" of a model of 2 GiB
    And a daemon
    Then the log has a line "found a GPU" with
      | card             | 0                       |
      | name             | NVIDIA GeForce RTX 3090 |
      | vram_total_bytes | 25769803776             |
      | driver           | 570.86.10               |
    When I send GET "/v1/gpus"
    Then the answer is 200
    And its body lists 2 "gpus"
    And its body has
      | driver_version          | 570.86.10               |
      | cuda_version            | 12.8                    |
      | problem                 | absent                  |
      | gpus.0.name             | NVIDIA GeForce RTX 3090 |
      | gpus.0.healthy          | true                    |
      | gpus.0.holders          | []                      |
      | gpus.1.name             | NVIDIA GeForce RTX 3060 |
      | gpus.1.vram_total_bytes | 12884901888             |
    When I send GET "/v1/capabilities"
    Then its body lists 2 "gpus"
    And its body has
      | gpus.1.index            | 1                       |
      | gpus.1.vram_total_bytes | 12884901888             |

  @ORCH-1103 @ORCH-3011 @LO-501
  Scenario: Small models fill the small card, and the large one stays free for the large model
    Given the cards of the reference box
    And a pool "a" of a model of 2 GiB
    And a pool "b" of a model of 3 GiB
    And a pool "c" of a model of 4 GiB
    And a pool "large" of a model of 23 GiB
    And a daemon
    Then replica "a-0" is ready on card "1"
    And replica "b-0" is ready on card "1"
    And replica "c-0" is ready on card "1"
    And replica "large-0" is ready on card "0"
    When I submit task "verse" with
      | model_ref | large |
    And I follow task "verse"
    Then stream "verse" is "started", tokens, "end"
    And every series is in the metrics contract, with its labels and values

  @ORCH-1103 @LO-501 @LO-503
  Scenario: Each model goes on the card with the least free memory that holds it
    Given the cards of the reference box
    And a pool "first" of a model of 6 GiB with
      | lifecycle | on_demand |
    And a pool "second" of a model of 6 GiB with
      | lifecycle | on_demand |
    And a pool "third" of a model of 4 GiB with
      | lifecycle | on_demand |
    And a pool "fourth" of a model of 12 GiB with
      | lifecycle | on_demand |
    And the daemon runs
    When I submit task "one" with
      | model_ref | first |
    Then replica "first-0" is ready on card "1"
    When I submit task "two" with
      | model_ref | second |
    Then replica "second-0" is ready on card "0"
    When I submit task "three" with
      | model_ref | third |
    Then replica "third-0" is ready on card "1"
    When I submit task "four" with
      | model_ref | fourth |
    Then replica "fourth-0" is ready on card "0"

  @ORCH-1103 @ORCH-3012 @ORCH-3046
  Scenario: One pool on both cards is two replica sets, and a task goes where more memory is free
    Given the cards of the reference box
    And a pool "wide" of a model of 10 GiB with
      | replicas | 2 |
    And a daemon
    When I send GET "/v1/pools/wide/health"
    Then I keep its "replicas.0.fingerprint" as $FIRST
    And its body lists 2 "gpus"
    And its body has
      | replicas.1.fingerprint | /^fp-/ |
    And the replicas of pool "wide" have 2 fingerprints
    When I post to "/v1/placement/explain"
      """
      {"model_ref": "wide"}
      """
    Then the answer is 200
    And its body has
      | pool_id      | wide |
      | candidates.0 | present |
    And the chosen replica is on card "0"

  @ORCH-3003 @LO-501
  Scenario: What does not fit is refused before a worker is started, and loads once there is room
    Given the cards of the reference box
    And a foreign process takes 20 GiB of card 0
    And a pool "large" of a model of 10 GiB with
      | device | [0] |
    And the daemon runs
    Then replica "large-0" is backoff
    And replica "large-0" says "a worker needs 10.3 GiB on card 0 (RTX 3090), and 3.7 GiB are free there"
    And no worker was ever started for pool "large"
    And card 0 has
      | vram_other_bytes | > 21474836480 |
    When I send GET "/readyz"
    Then the answer is 503 POOL_UNREADY
    When I submit task "early" with
      | model_ref | large |
    Then the answer is 503 POOL_UNREADY
    When no foreign process takes memory of card 0
    Then replica "large-0" is ready on card "0"
    And the metrics have
      | llorch_replica_state{replica_id="large-0",state="ready"} | 1 |

  @ORCH-3003
  Scenario: A model that is larger than any card says so
    Given the cards of the reference box
    And a pool "huge" of a model of 40 GiB
    And the daemon runs
    Then replica "huge-0" is failed
    And replica "huge-0" says "waiting will not help"
    And no worker was ever started for pool "huge"

  @LO-501 @ORCH-1103
  Scenario: The context of a pool that has none configured is what each card holds
    Given the cards of the reference box
    And a pool "wide" of a model of 0.5 GiB with
      | model_ctx | 16384 |
      | ctx       | 0     |
      | replicas  | 2     |
    And a daemon
    Then a worker of pool "wide" on card 0 has a context of 10752 to 12032 tokens
    And a worker of pool "wide" on card 1 has a context of 4608 to 6144 tokens
    And no replica of pool "wide" was refused memory
    When I submit task "long" with
      | model_ref | wide |
    And I follow task "long"
    Then stream "long" is "started", tokens, "end"

  @LO-501 @ORCH-3003
  Scenario: A context that is configured is kept to, and the refusal names the one that would fit
    Given the cards of the reference box
    And a pool "fixed" of a model of 0.5 GiB with
      | model_ctx | 16384 |
      | ctx       | 8192  |
      | device    | [1]   |
    And the daemon runs
    Then replica "fixed-0" is failed
    And replica "fixed-0" says "waiting will not help"
    And replica "fixed-0" says "or less instead of 8192 it would fit card 1"
    And no worker was ever started for pool "fixed"

  @ORCH-3003
  Scenario: A mask names a card that is not there
    Given the cards of the reference box
    And a pool "lost" of a model of 2 GiB with
      | device | [2] |
    And the daemon runs
    Then replica "lost-0" is failed
    And replica "lost-0" says "`device` names card 2, which is not in this machine"

  @ORCH-3011
  Scenario: A replica does not spill over to the other card
    Given the cards of the reference box
    And a pool "kept" of a model of 11 GiB with
      | device | [1] |
    And a pool "more" of a model of 2 GiB with
      | device    | [1]       |
      | lifecycle | on_demand |
    And a daemon with 1 ready replica
    Then replica "kept-0" is ready on card "1"
    When I submit task "waits" with
      | model_ref | more |
    Then replica "more-0" is backoff
    And replica "more-0" says "a worker needs 2.3 GiB on card 1 (RTX 3060), and"
    And no worker was ever started for pool "more"
    And card 0 has
      | holders | [] |
    When I cancel task "waits"

  @ORCH-3052 @ORCH-3011
  Scenario: One model over both cards, by the parts it was given
    Given the cards of the reference box
    And a pool "wide" of a model of 24 GiB with
      | device       | [0, 1]  |
      | tensor_split | [2, 1] |
    And a daemon
    Then replica "wide-0" is ready on cards "0,1"
    And the worker of "wide-0" was told "--tensor-split 2,1"
    And card 0 has
      | holders.0.used_bytes | > 16000000000 |
    And card 1 has
      | holders.0.used_bytes | > 8000000000 |

  @ORCH-3052
  Scenario: The smallest card bounds a split
    Given the cards of the reference box
    And a pool "even" of a model of 26 GiB with
      | device       | [0, 1]  |
      | tensor_split | [1, 1] |
    And the daemon runs
    Then replica "even-0" is failed
    And replica "even-0" says "on card 1 (RTX 3060), which has 12.0 GiB in all"
    And no worker was ever started for pool "even"

  @ORCH-1102
  Scenario: Without a driver a GPU pool fails fast, and a CPU pool serves
    Given a machine without an NVIDIA driver
    And a pool "fast" of a model of 2 GiB
    And a pool "default" of built-in workers with
      | device | cpu |
    And a daemon with 1 ready replica
    Then the log has a line "no usable GPU"
    And replica "fast-0" is failed
    And replica "fast-0" says "driver"
    And no worker was ever started for pool "fast"
    When I submit task "fast" with
      | model_ref | fast |
    Then the answer is 503 POOL_UNAVAILABLE
    When I submit task "slow"
    And I follow task "slow"
    Then stream "slow" is "started", tokens, "end"
    When I send GET "/v1/gpus"
    Then its body has
      | gpus    | []       |
      | problem | /driver/ |
