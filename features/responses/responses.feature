Feature: Responses that are kept
  A response of OpenAI's dialect is a task. It is kept, can be gone on from, and one in the background goes on without its client, through a kill of the daemon.

  @LO-431 @LO-432 @LO-202
  Scenario: A stream goes on behind the last event seen, after a kill -9, byte for byte
    Given a daemon whose pool has
      | replicas | 2  |
      | pace     | 15 |
    When I stream the response "cut"
      """
      {"model": "haiku", "input": "Write a haiku about tea containing \"ten past two\".\n\n", "seed": 7, "background": true, "stream": true}
      """
    Then response "cut" has 12 events
    When I kill the daemon
    And I start the daemon again
    And I read response "cut" as "resumed", behind the last event of it
    And I read response "cut" anew as "whole"
    Then response "resumed" ends with "response.completed"
    And the events of "cut" and then of "resumed" are those of "whole", byte for byte
    When I kill the daemon
    And I start the daemon again
    And I read response "cut" anew as "recorded"
    Then response "recorded" ends with "response.completed"
    And the events of "cut" and then of "resumed" are those of "recorded", byte for byte

  @LO-430 @LO-431
  Scenario: A response in the background is polled, and its task is one like any other
    Given the shared daemon
    When I post to "/v1/responses"
      """
      {"model": "haiku", "input": "Write a haiku about rain.\n\n", "background": true, "metadata": {"town": "Bern"}}
      """
    Then the answer is 200
    And its body has
      | status        | queued |
      | background    | true   |
      | metadata.town | Bern   |
    And I keep its "id" as $ID
    And response "$ID" becomes "completed"
    And its body has
      | metadata.town    | Bern      |
      | output.0.type    | message   |
      | output.0.status  | completed |
      | created_at       | present   |
      | completed_at     | present   |
      | usage.input_tokens | present |
    When I send DELETE "/v1/responses/$ID"
    Then its body has
      | deleted | true |
    When I send GET "/v1/responses/$ID"
    Then the answer is 404
    And its body has
      | error.code | not_found |
    When I post to "/v1/responses"
      """
      {"model": "haiku", "input": "Write a haiku about rain.\n\n", "previous_response_id": "$ID"}
      """
    Then the answer is 400
    And its body has
      | error.code  | previous_response_not_found |
      | error.param | previous_response_id        |

  @LO-433 @LO-434
  Scenario: A conversation goes on from a response, and its input is listed
    Given a scripted engine plays
      """
      {"rules": [
        {"match": "12 degrees", "role": "tool", "play": [{"text": "It is 12 degrees.", "cut": 3}]},
        {"match": "weather", "role": "user", "play": [{"reasoning": "It asks."}, {"call": {"n": 0, "name": "weather", "arguments": "{\"city\":\"Bern\"}"}}]}
      ]}
      """
    And a daemon in front of the scripted engine
    When I post to "/v1/responses"
      """
      {"model": "haiku", "input": "What is the weather in Bern?", "instructions": "Be brief.", "tools": [{"type": "function", "name": "weather"}]}
      """
    Then its body has
      | output.0.type | reasoning     |
      | output.1.type | function_call |
    And I keep its "id" as $FIRST
    And I keep its "output.1.call_id" as $CALL
    When I post to "/v1/responses"
      """
      {"model": "haiku", "previous_response_id": "$FIRST", "input": [{"type": "function_call_output", "call_id": "$CALL", "output": "12 degrees"}],
       "tools": [{"type": "function", "name": "weather"}]}
      """
    Then its body has
      | output.0.content.0.text | It is 12 degrees. |
      | previous_response_id    | $FIRST            |
    And I keep its "id" as $SECOND
    When I send GET "/v1/responses/$SECOND/input_items?order=asc"
    Then its body lists 4 "data"
    And its body has
      | data.0.role      | user                 |
      | data.1.type      | reasoning            |
      | data.2.call_id   | $CALL                |
      | data.3.type      | function_call_output |
      | has_more         | false                |
    When I send DELETE "/v1/responses/$FIRST"
    Then the answer is 200
    When I post to "/v1/responses"
      """
      {"model": "haiku", "previous_response_id": "$SECOND", "input": "And now?"}
      """
    Then the answer is 400
    And its body has
      | error.code | previous_response_not_found |

  @LO-434 @LO-431
  Scenario: A response in the background is canceled, as often as one likes
    Given a daemon whose pool has
      | pace | 30 |
    When I stream the response "long"
      """
      {"model": "haiku", "input": "Write a haiku about tea containing \"ten past two\".\n\n", "background": true, "stream": true}
      """
    Then response "long" has 8 events
    And response "long" becomes "in_progress"
    And I keep its "id" as $ID
    When I send POST "/v1/responses/$ID/cancel"
    Then its body has
      | status            | cancelled  |
      | error             | null       |
      | output.0.status   | incomplete |
    When I send POST "/v1/responses/$ID/cancel"
    Then its body has
      | status | cancelled |
    And response "long" ends with "response.failed"

  @LO-431 @LO-208
  Scenario: The key of a canceled response is free
    Given a daemon whose pool has
      | pace | 5 |
    When I send POST "/v1/responses" with the headers
      | Idempotency-Key | order-1 |
      | body            | {"model":"haiku","input":"Write a haiku about rain.","background":true} |
    Then the answer is 200
    And I keep its "id" as $FIRST
    When I send POST "/v1/responses/$FIRST/cancel"
    Then its body has
      | status | cancelled |
    When I send POST "/v1/responses" with the headers
      | Idempotency-Key | order-1 |
      | body            | {"model":"haiku","input":"Write a haiku about rain.","background":true} |
    Then the answer is 200
    And I keep its "id" as $SECOND
    When I send GET "/v1/responses/$FIRST"
    Then its body has
      | status | cancelled |
    When I send POST "/v1/responses" with the headers
      | Idempotency-Key | order-1 |
      | body            | {"model":"haiku","input":"Write a haiku about rain.","background":true} |
    Then its body has
      | id | $SECOND |
    And I send GET "/v1/tasks"
    And its body lists 2 "tasks"

  @LO-432 @LO-434 @LO-430
  Scenario Outline: What is wrong is named
    Given the shared daemon
    When I post to "/v1/responses"
      """
      {"model": "haiku", "input": "Write a haiku about rain.\n\n", "max_output_tokens": 4}
      """
    Then its body has
      | status | incomplete |
    And I keep its "id" as $ID
    When I send <method> "/v1/responses/<path>"
    Then the answer is <status>
    And its body has
      | error.param | <param> |
      | error.code  | <code>  |
    And the daemon still serves

    Examples:
      | method | path                                  | status | param          | code          |
      | GET    | $ID?stream=true&starting_after=99999  | 400    | starting_after | invalid_value |
      | GET    | $ID?stream=true&starting_after=-1     | 400    | starting_after | invalid_value |
      | GET    | $ID?stream=true&starting_after=$ID    | 400    | starting_after | invalid_value |
      | GET    | $ID/input_items?limit=1000            | 400    | limit          | invalid_value |
      | GET    | $ID/input_items?after=msg_1           | 400    | after          | invalid_value |
      | POST   | $ID/cancel                            | 400    | null           | invalid_value |
      | GET    | resp_1                                | 404    | null           | not_found     |
      | DELETE | $ID/cancel                            | 405    | null           | method_not_allowed |
