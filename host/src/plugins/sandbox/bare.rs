//! The measure of the dispatch bench: the same component, instantiated and called by wasmtime alone, with nothing of the
//! house around it.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::clock::Stopwatch;
use crate::plugins::imports::contract::HandlerPre;
use crate::plugins::imports::contract::enginehouse::plugin::types::Task;

struct State {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// Every function of the contract that the component imports traps. WASI's own are linked already, under whichever 0.2
/// version.
fn close_contract(linker: &mut Linker<State>, engine: &Engine, component: &Component) -> wasmtime::Result<()> {
    for (name, import) in component.component_type().imports(engine) {
        let ComponentItem::ComponentInstance(interface) = import.ty else { continue };
        if !name.starts_with("enginehouse:plugin/") {
            continue;
        }
        let mut functions = linker.instance(name)?;
        for (function, item) in interface.exports(engine) {
            if matches!(item.ty, ComponentItem::ComponentFunc(_)) {
                functions
                    .func_new(function, |_, _, _, _| Err(wasmtime::format_err!("not part of this measurement")))?;
            }
        }
    }
    Ok(())
}

/// Calls `handle` `calls` times, each in a fresh instance, after `warm_up` calls that are not measured. The component must
/// get by without the contract's imports.
pub async fn instantiate_and_call(component: &[u8], warm_up: usize, calls: usize) -> anyhow::Result<Vec<Duration>> {
    let engine = Engine::default();
    let component = Component::new(&engine, component).map_err(|e| anyhow!("the component does not compile: {e:#}"))?;
    let mut linker = Linker::<State>::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(|e| anyhow!("WASI cannot be linked: {e:#}"))?;
    let handler = close_contract(&mut linker, &engine, &component)
        .and_then(|()| linker.instantiate_pre(&component))
        .and_then(HandlerPre::new)
        .map_err(|e| anyhow!("the component does not fit: {e:#}"))?;
    let task = Task {
        id: "00000000-0000-4000-8000-000000000000".into(),
        task_type: "noop".into(),
        params: r#"{"text":"bench"}"#.into(),
        attempt: 1,
        context: "{}".into(),
    };
    let mut times = Vec::with_capacity(calls);
    for i in 0..warm_up + calls {
        let watch = Stopwatch::start();
        let state = State { wasi: WasiCtx::builder().build(), table: ResourceTable::new() };
        let mut store = Store::new(&engine, state);
        let instance = handler
            .instantiate_async(&mut store)
            .await
            .map_err(|e| anyhow!("the component cannot be instantiated: {e:#}"))?;
        instance
            .enginehouse_plugin_guest()
            .call_handle(&mut store, &task)
            .await
            .map_err(|e| anyhow!("{e:#}"))
            .context("the component trapped")?
            .map_err(|failure| anyhow!("the component failed: {}", failure.message))?;
        drop(store);
        if i >= warm_up {
            times.push(watch.elapsed());
        }
    }
    Ok(times)
}
