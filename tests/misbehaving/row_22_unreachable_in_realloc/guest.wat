;; Gives up as soon as it is handed rows.
(func $realloc (param i32 i32 i32 i32) (result i32) unreachable)
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (call $answer (local.get $count) (i32.const 0) (global.get $values) (i32.const 2)))
