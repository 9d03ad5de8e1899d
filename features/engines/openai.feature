Feature: Engines that somebody else runs, with OpenAI's API
  A pool of kind `openai` or `vllm` is used as every other: by tasks and by the fronts. What its engine cannot do is refused by name or routed elsewhere, and what is wrong
  with its configuration stands in its health.

  @OC-ADAPT-OAI-6000 @LO-457
  Scenario Outline: A chat comes from an engine with OpenAI's API, by a task and by OpenAI's front
    Given a <server> that asks for a key serves "org/model" and plays
      """
      {"rules": [{"match": "rain", "play": [{"reasoning": "Hm."}, {"text": "Rain on 蛙.", "cut": 2}]}]}
      """
    And a pool "away" in front of it, with its key, with
      | engine | <kind> |
    And a daemon
    When I submit the chat "native"
      """
      {"messages": [{"role": "user", "content": "rain"}], "reasoning": {"split": true}}
      """
    And I follow task "native"
    Then stream "native" thinks "Hm." and says "Rain on 蛙."
    And the end of stream "native" has
      | finish_reason          | stop          |
      | receipt.engine_version | /^<version>/  |
    When I post to "/v1/chat/completions"
      """
      {"model": "haiku", "messages": [{"role": "user", "content": "rain"}]}
      """
    Then the answer is 200
    And its body has
      | choices.0.message.content | Rain on 蛙. |
      | choices.0.finish_reason   | stop       |
      | usage.completion_tokens   | 6          |
    When I send GET "/v1/capabilities"
    Then its body has
      | pools.0.engine         | <kind>          |
      | pools.0.engine_version | /^<version>/    |
      | features               | /<kind>_chat"/  |
      | features               | /<kind>_embedding"/ |
    And no file of the data folder holds any of
      | sk-of-the-scenarios |

    Examples:
      | server  | kind   | version |
      | vllm    | vllm   | vllm 0  |
      | ollama  | openai | ollama  |
      | sglang  | openai | sglang  |
      | unknown | openai | unknown |

  @ORCH-3055 @LO-410
  Scenario: Tools go only to a pool whose engine has them
    Given a vllm without tools serves "m"
    And a pool "plain" in front of it with
      | engine | vllm |
    And a vllm serves "m" and plays
      """
      {"rules": [{"tools": true, "play": [{"call": {"n": 0, "name": "clock", "arguments": "{}"}}]}]}
      """
    And a pool "tools" in front of it with
      | engine | vllm |
    And a daemon
    When I submit the chat "ask"
      """
      {"messages": [{"role": "user", "content": "What time is it?"}], "tools": [{"name": "clock"}]}
      """
    And I follow task "ask"
    Then stream "ask" calls
      | clock | {} |
    And the end of stream "ask" has
      | finish_reason      | tool_calls |
      | receipt.replica_id | tools-0    |
    When I submit the chat "refused"
      """
      {"messages": [{"role": "user", "content": "What time is it?"}], "tools": [{"name": "clock"}], "placement": {"mode": "pin", "pool_id": "plain"}}
      """
    Then the answer is 400 INVALID_PARAMS
    And its message says "takes no tools"

  @OC-ADAPT-OAI-6000 @LO-460
  Scenario: What does not fit stands in the pool's health
    Given a ollama serves "llama3.2:3b,qwen3:4b"
    And a pool "other" in front of it with
      | engine | openai                                          |
      | model  | {id: haiku, ref: label, name: "qwen3:8b"} |
    And a vllm that asks for a key serves "m"
    And a pool "closed" in front of it with
      | engine | vllm |
    And the daemon runs
    Then "/v1/pools/other/health" has come to
      | pool.ready      | false                                  |
      | pool.last_error | /it serves qwen3:4b, llama3\.2:3b/     |
    And "/v1/pools/closed/health" has come to
      | pool.ready      | false                                                        |
      | pool.last_error | /set `provisioning\.key_env`.*Authorization: Bearer/         |

  @LO-453 @ORCH-3055
  Scenario: Tasks on a vLLM are strict only where its batches change no byte
    Given a vllm serves "m"
    And a pool "any" in front of it with
      | engine | vllm                      |
      | model  | {id: any, ref: label, name: m} |
    And a vllm serves "m"
    And a pool "invariant" in front of it with
      | engine      | vllm                                 |
      | model       | {id: invariant, ref: label, name: m} |
      | determinism | {batch_invariant: true}              |
    And a daemon
    When I submit task "refused" with
      | model_ref   | any    |
      | determinism | strict |
    Then the answer is 400 INVALID_PARAMS
    When I submit task "first" with
      | model_ref  | invariant |
      | max_tokens | 8         |
      | seed       | 7         |
    And I follow task "first"
    Then the end of stream "first" has
      | receipt.determinism | strict |
    When I run "llama-orch replay {first}"
    Then it exits with 0
    And it says "match: "
