Feature: The order of a stream
  A stream is `started`, then tokens, then one `end` or one `error`, and nothing after it. The steps read every stream strictly: they check
  framing, contiguous ids, the running hash in each id, the shape of each event's data, and the receipt's digest over the tokens.

  @ORCH-2002 @ORCH-3029 @LO-201 @LO-204
  Scenario: A completion streams real tokens
    Given the shared daemon
    When I submit task "haiku" with
      | prompt | "Write a haiku about frogs containing \\"thirty-one\\".\\n\\n" |
    And I follow task "haiku"
    Then stream "haiku" is "started", tokens, "end"
    And stream "haiku" begins with the figures of its admission
    And stream "haiku" says "thirty-one"
    And the headers of stream "haiku" have
      | Content-Type     | text/event-stream        |
      | Cache-Control    | no-store                 |
      | X-Correlation-Id | /^[0-9a-f-]{36}$/        |
    And the end of stream "haiku" has
      | finish_reason | stop |
      | tokens_in     | > 5  |
      | tokens_out    | > 10 |

  @ORCH-2002
  Scenario: A bound on the answer ends it with its reason
    Given the shared daemon
    When I submit task "short" with
      | max_tokens | 5 |
    And I follow task "short"
    Then stream "short" is "started", tokens, "end"
    And stream "short" holds 5 token events
    And the end of stream "short" has
      | finish_reason | length |
      | tokens_out    | 5      |

  @ORCH-2002
  Scenario: A stop text ends the answer and is not part of it
    Given the shared daemon
    When I submit task "one-line" with
      | params | {"stop": ["\\n"]} |
    And I follow task "one-line"
    Then stream "one-line" is "started", tokens, "end"
    And the end of stream "one-line" has
      | finish_reason | stop |

  @OC-CTRL-2023 @ORCH-2002
  Scenario: Metrics frames come in between, without an id
    Given a daemon whose pool has
      | pace | 12 |
    When I submit task "slow"
    And I follow task "slow"
    Then stream "slow" has metrics frames without an id
    And a metrics frame of stream "slow" has
      | phase               | /^(prefill\|decode)$/ |
      | queue_depth         | 0                     |
      | on_time_probability | 1                     |
      | kv_warmth           | false                 |
    And stream "slow" is "started", tokens, "end"

  @ORCH-2002
  Scenario: A queued task's stream begins at once
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 2}
      """
    When I submit task "running"
    And the fake engine has come to busy 1
    And I submit task "queued"
    And I follow task "queued"
    Then stream "queued" has begun
    And task "queued" is queued
    When the fake engine releases 4 tokens
    Then stream "queued" is "started", tokens, "end"

  @ORCH-2002
  Scenario: A client that goes away cancels nothing
    Given a daemon whose pool has
      | pace | 30 |
    When I submit task "left"
    And I follow task "left"
    Then stream "left" has 3 tokens
    When I hang up stream "left"
    Then task "left" is completed
    When I follow task "left" as "again"
    Then stream "again" is "started", tokens, "end"

  @ORCH-2002 @ORCH-3054
  Scenario: An embedding sends no tokens, its answer is in the end
    Given a fake engine with 1 slot
    And a pool "embedder" in front of the fake engine with
      | workload | embedding |
    And a daemon
    When I submit task "vectors" with
      | workload | embedding           |
      | inputs   | ["one text", "two"] |
    And I follow task "vectors"
    Then stream "vectors" is "started", "end"
    And the end of stream "vectors" has
      | finish_reason       | result  |
      | tokens_out          | 0       |
      | result.embeddings.0 | present |
      | result.embeddings.1 | present |
      | result.embeddings.2 | absent  |

  @ORCH-2002 @ORCH-3054
  Scenario: A rerank sends no tokens, its answer is in the end
    Given a fake engine with 1 slot
    And a pool "ranker" in front of the fake engine with
      | workload | rerank |
    And a daemon
    When I submit task "ranks" with
      | workload | rerank                         |
      | prompt   | green frogs                    |
      | inputs   | ["green frogs", "grey clouds"] |
    And I follow task "ranks"
    Then stream "ranks" is "started", "end"
    And the end of stream "ranks" has
      | finish_reason | result  |
      | result        | present |

  @ORCH-2002
  Scenario: A rune that the engine sends in two pieces arrives whole
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"tokens": 4, "fault": "split_rune", "after": 2}
      """
    When I submit task "runes"
    And I follow task "runes"
    Then stream "runes" is "started", tokens, "end"
    And stream "runes" says "é"

  @OC-CTRL-2034 @OC-CTRL-2030
  Scenario Outline: When the engine fails in mid-stream three times, HTTP stays 200 and an error closes the stream
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"tokens": 9, "fault": "<fault>", "after": 3}
      """
    When I submit task "broken" with
      | determinism | best_effort |
    And I follow task "broken"
    Then stream "broken" ends with error <code>
    And stream "broken" holds 9 token events
    And the error of stream "broken" has
      | engine  | llamacpp    |
      | pool_id | default     |
      | message | /.{20,}/    |
    And task "broken" is failed
    When the fake engine's script is
      """
      {"tokens": 9}
      """
    And I submit task "next"
    And I follow task "next"
    Then stream "next" is "started", tokens, "end"

    Examples:
      | fault       | code         |
      | die         | WORKER_RESET |
      | garbage     | WORKER_RESET |
      | error_frame | WORKER_RESET |

  @OC-CTRL-2026
  Scenario: Tokens that are written together are the same events
    Given the settings
      | stream | {micro_batch_ms: 100} |
    And a daemon whose pool has
      | pace | 40 |
    When I submit task "joined" with
      | seed | 3 |
    And I follow task "joined"
    Then stream "joined" is "started", tokens, "end"
    When I follow task "joined" as "replay"
    Then streams "joined" and "replay" brought the same bytes
    When I send the daemon SIGTERM
    Then the daemon exits with 0
